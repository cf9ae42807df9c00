"""Where the nodes read and write: inside ComfyUI's own folders and nowhere else.

A workflow may come from a stranger. It names things; what a name means is decided here, and a name that leads out of the
folder it belongs to is refused.
"""
from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import folder_paths

OWN = "ARR-RPO"  # our folder within ComfyUI's output
RUN = "run: "  # before the name of a run, in a list of adapters
NONE = "(none)"
DATA = (".txt", ".jsonl", ".json")


def own_folder() -> Path:
    """Our folder within ComfyUI's output, made if it has to be."""
    folder = Path(folder_paths.get_output_directory()) / OWN
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def runs_folder() -> Path:
    """The folder of training runs, whether or not it is there."""
    return Path(folder_paths.get_output_directory()) / OWN / "runs"


def new_folder(kind: str) -> Path:
    """A new folder of ours for one result, made: ``win rates/00001``, ``00002``, ..."""
    parent, number = own_folder() / kind, 1
    parent.mkdir(exist_ok=True)
    while True:
        folder = parent / f"{number:05d}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def rubrics_folder() -> Path:
    """The folder of rubrics that nodes have written, whether or not it is there."""
    return Path(folder_paths.get_output_directory()) / OWN / "rubrics"


def rubric_file(name: str) -> Path:
    """The file of the rubric called ``name``, whether or not it is there."""
    return rubrics_folder() / f"{file_name(name, 'name')}.json"


def file_name(name: str, what: str) -> str:
    """``name``, once it is known to be a plain file name. Raises ValueError."""
    if not re.fullmatch(r"\w[\w .-]{0,99}", name) or name[-1] in " .":
        raise ValueError(f"{what}: expected a name of letters, digits, spaces, dots, '-' and '_' that is no path, "
                         f"came {name[:80]!r}")
    return name


def run_folder(name: str) -> Path:
    """The folder of the run called ``name``, whether or not it is there. Raises ValueError for what is no file name."""
    return runs_folder() / file_name(name, "run_name")


def run_names() -> list[str]:
    """The runs that have saved an adapter."""
    return sorted(path.parents[1].name for path in runs_folder().glob("*/adapter/adapter_config.json"))


def adapter_names() -> list[str]:
    """What a list of adapters offers: the files of the loras folders, and the runs."""
    return [*folder_paths.get_filename_list("loras"), *(f"{RUN}{name}" for name in run_names())]


def adapter_path(name: str) -> Path:
    """The file or folder behind an entry of ``adapter_names``."""
    if name.startswith(RUN):
        return run_folder(name.removeprefix(RUN)) / "adapter"
    path = folder_paths.get_full_path("loras", name)
    folders = folder_paths.get_folder_paths("loras")
    if path is None or not any(_within(Path(path), Path(folder)) for folder in folders):
        raise ValueError(f"adapter: expected a file of ComfyUI's loras folders, came {name[:80]!r}; "
                         f"put it into {folders[0]} and press R")
    return Path(path)


def data_names() -> list[str]:
    """The text and JSON files in ComfyUI's input folder, with those of its subfolders."""
    folder = Path(folder_paths.get_input_directory())
    files = (path for suffix in DATA for path in folder.rglob(f"*{suffix}"))
    return sorted(path.relative_to(folder).as_posix() for path in files)


def data_path(name: str, what: str) -> Path:
    """The file called ``name`` in ComfyUI's input folder. Raises ValueError for any other place."""
    path = _inside(Path(folder_paths.get_input_directory()), name)
    if path.suffix not in DATA or not path.is_file():
        raise ValueError(f"{what}: expected a {', '.join(DATA)} file in ComfyUI's input folder, came {name[:80]!r}")
    return path


def base_model(name: str) -> str:
    """A base for training: a diffusers folder of ComfyUI's, or a Hugging Face id. Raises ValueError for any other path."""
    for folder in folder_paths.get_folder_paths("diffusers"):
        path = Path(folder) / name
        if _within(path, Path(folder)) and (path / "model_index.json").is_file():
            return str(path)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        raise ValueError("base: expected a Hugging Face id (owner/name) or a diffusers folder with model_index.json in "
                         f"ComfyUI's models/diffusers, came {name[:80]!r}")
    return name


def output_loras() -> Path:
    """Where finished adapters go; ComfyUI lists what is in there among its LoRAs."""
    return Path(folder_paths.get_output_directory()) / "loras" / OWN


def confine(paths: Iterable[Path]) -> None:
    """Raises ValueError unless all files, links followed, lie in ComfyUI's input or output folder."""
    allowed = [Path(folder).resolve() for folder in (folder_paths.get_input_directory(), folder_paths.get_output_directory())]
    for path in paths:
        if not any(path.resolve().is_relative_to(folder) for folder in allowed):
            raise ValueError(f"expected images in ComfyUI's input or output folder, came {str(path)[:200]!r}; copy it there")


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if not _within(path, folder):
        raise ValueError(f"expected a name inside of {folder.name}, came {name[:80]!r}, which leads out of it")
    return path


def _within(path: Path, folder: Path) -> bool:
    """Whether ``path`` is written as a path inside ``folder``; links that the user made in there are the user's own."""
    return ".." not in path.parts and path.is_relative_to(folder) and path != folder
