"""The repository's frame: imports that cost nothing, a root under any folder name, one list of dependencies."""

import ast
import asyncio
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import arr_core

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "PIL")
# What ComfyUI-Manager must never touch in a ComfyUI.
HOST = ("torch", "torchvision", "torchaudio", "numpy")


def loaded_by(code: str) -> set[str]:
    """The heavy packages that a fresh interpreter has loaded after ``code``."""
    code += f"\nimport sys\nprint(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def load_as_comfyui_does(folder: Path):
    """The pack's module, under the kind of name that ComfyUI gives it: its path."""
    name = str(folder).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def oddly_named_copy(tmp_path):
    """A copy of the pack without tests and weights, in a folder whose name is no Python identifier."""
    folder = tmp_path / "1 ARR-RPO.main"
    folder.mkdir()
    for name in ("__init__.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("nodes", "arr_core"):
        shutil.copytree(
            ROOT / name,
            folder / name,
            ignore=lambda _, names: [
                name
                for name in names
                if Path(name).suffix not in ("", ".py") or name == "__pycache__"
            ],
        )
    return folder


@pytest.mark.parametrize(
    "code",
    [
        "import arr_core; assert arr_core.__version__",
        "import importlib.util as u; s = u.spec_from_file_location('pack', '__init__.py'); m = u.module_from_spec(s); "
        "s.loader.exec_module(m); assert m.WEB_DIRECTORY",
        "import arr_core.config.load",
    ],
    ids=["arr_core", "root", "config"],
)
def test_importing_loads_nothing_heavy(code):
    assert loaded_by(code) == set()


def test_the_pack_loads_under_a_name_that_is_no_identifier(oddly_named_copy):
    module = load_as_comfyui_does(oddly_named_copy)
    assert module.WEB_DIRECTORY == "./nodes/web"
    assert asyncio.iscoroutinefunction(module.comfy_entrypoint)
    assert not hasattr(
        module, "NODE_CLASS_MAPPINGS"
    )  # ComfyUI would take it and ignore the entry point


def test_a_failure_of_the_nodes_is_logged_in_full(oddly_named_copy, caplog):
    module = load_as_comfyui_does(oddly_named_copy)
    with pytest.raises(ImportError, match="comfy_api"):  # no ComfyUI here
        asyncio.run(module.comfy_entrypoint())
    assert caplog.records[0].exc_info


def test_requirements_and_version_equal_the_projects_and_leave_the_host_alone():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines() == project[
        "dependencies"
    ]
    # ComfyUI's registry reads the version from pyproject.toml; nothing else holds it but the package.
    assert project["version"] == arr_core.__version__
    for requirement in project["dependencies"]:
        name, _, bound = requirement.partition(">=")
        assert bound and not set(bound) & set("<=!~,;"), f"{requirement}: lower bounds only"
        assert name not in HOST


def test_only_arr_core_is_installed():
    tomllib = pytest.importorskip("tomllib")
    from setuptools import find_packages

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "setuptools"
    ]
    assert settings["packages"]["find"] == {"include": ["arr_core*"], "namespaces": False}
    packages = find_packages(str(ROOT), include=["arr_core*"])
    assert "arr_core" in packages and {name.split(".")[0] for name in packages} == {"arr_core"}
    folders = {path.parent for path in (ROOT / "arr_core").rglob("*.py")}
    assert {ROOT / name.replace(".", "/") for name in packages} == folders, (
        "a folder of modules lacks an __init__.py"
    )


def test_arr_core_imports_itself_relatively_and_nothing_of_comfyui():
    forbidden = {"arr_core", "nodes", "comfy", "comfy_api", "folder_paths", "server"}
    for path in (ROOT / "arr_core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            else:
                continue
            assert forbidden.isdisjoint(name.split(".")[0] for name in names), (
                f"{path}:{node.lineno}"
            )
