"""Where the nodes read and write: inside ComfyUI's own folders and nowhere else.

A workflow may come from a stranger. It names things; what a name means is decided here, and a name that leads out of the
folder it belongs to is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import folder_paths

OWN = "ARR-RPO"  # our folder within ComfyUI's output
RUN = "run: "  # before the name of a run, in a list of adapters
SAVED, FILE = "saved: ", "file: "  # before the names of files, in a list of rubrics
NONE = "(none)"
DATA = (".txt", ".jsonl", ".json")
LONGEST = 180  # bytes of a name; file systems take 255, and endings are added
NAME = re.compile(r"\w([\w .-]{0,98}[\w-])?")
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?$", re.IGNORECASE)


def output(*parts: str) -> Path:
    """A place in our folder within ComfyUI's output, whether or not it is there."""
    return Path(folder_paths.get_output_directory(), OWN, *parts)


def output_loras() -> Path:
    """Where finished adapters go; ComfyUI lists what is in there among its LoRAs."""
    return Path(folder_paths.get_output_directory(), "loras", OWN)


def rubric_file(name: str, what: str = "save_as") -> Path:
    """The file of the rubric called ``name``, whether or not it is there."""
    return output("rubrics", f"{file_name(name, what)}.json")


def rubric_path(source: str) -> Path | None:
    """The file behind an entry of the list of rubrics, if there is one."""
    if source.startswith(SAVED):
        return rubric_file(source.removeprefix(SAVED), "source")
    if source.startswith(FILE):
        return data_path(source.removeprefix(FILE), "source")
    return None


def run_folder(name: str) -> Path:
    """The folder of the run called ``name``, whether or not it is there. Raises ValueError for what is no file name."""
    return output("runs", file_name(name, "run_name"))


def file_name(name: str, what: str) -> str:
    """``name``, once it is known to be a plain file name. Raises ValueError."""
    if not NAME.fullmatch(name) or len(name.encode()) > LONGEST or RESERVED.match(name):
        raise ValueError(
            f"{what}: expected a name of letters, digits, spaces, dots, '-' and '_' that is no path, not long and "
            f"none of Windows' own, got {name[:80]!r}"
        )
    return name


def adapter_names() -> list[str]:
    """What a list of adapters offers: the files of the loras folders, and the runs that have saved an adapter."""
    saved = output("runs").glob("*/adapter/adapter_config.json")
    runs = sorted(path.parents[1].name for path in saved)
    return [*folder_paths.get_filename_list("loras"), *(f"{RUN}{name}" for name in runs)]


def adapter_path(name: str) -> Path:
    """The file or folder behind an entry of ``adapter_names``. Raises ValueError for any other place."""
    if name.startswith(RUN):
        return run_folder(name.removeprefix(RUN)) / "adapter"
    path = folder_paths.get_full_path("loras", name)
    folders = folder_paths.get_folder_paths("loras")
    if path is None or not any(_within(Path(path), Path(folder)) for folder in folders):
        raise ValueError(
            f"adapter: expected a file of ComfyUI's loras folders, got {name[:80]!r}; "
            f"put it into {folders[0]} and press R"
        )
    return Path(path)


_folder_times: dict[str, float] = {}  # the folders of the last walk, and when they had changed last
_data_names: list[str] = []


def data_names() -> list[str]:
    """The text and JSON files in ComfyUI's input folder and its subfolders.

    Many inputs offer this list, and the folder may hold very many files: it is walked again only when a folder in it has
    changed.
    """
    global _folder_times, _data_names
    if not _folder_times or any(_changed(path) != time for path, time in _folder_times.items()):
        names, _folder_times = folder_paths.recursive_search(folder_paths.get_input_directory())
        found = folder_paths.filter_files_extensions(names, DATA)
        _data_names = [Path(name).as_posix() for name in found]
    return _data_names


def _changed(path: str) -> float | None:
    try:
        return os.path.getmtime(path)
    except OSError:
        return None


def data_path(name: str, what: str = "") -> Path:
    """The file called ``name`` in ComfyUI's input folder. Raises ValueError for any other place."""
    folder = Path(folder_paths.get_input_directory())
    path = folder / name
    if not _within(path, folder) or path.suffix.lower() not in DATA or not path.is_file():
        raise ValueError(
            f"{what}: expected a {', '.join(DATA)} file in ComfyUI's input folder, got {name[:80]!r}"
        )
    return path


def stamp(find: Callable[[str], Path | None], name: str | None) -> tuple[int, int] | None:
    """Time and size of the file ``find(name)``, of an adapter's folder those of its weights; None where there is none."""
    try:
        path = find(name or "")
        if path and path.is_dir():
            path /= "adapter_model.safetensors"
        return path and (path.stat().st_mtime_ns, path.stat().st_size)
    except (OSError, ValueError):
        return None


def base_model(name: str) -> str:
    """A base for training: a diffusers folder of ComfyUI's, or a Hugging Face id; nothing for nothing.

    Raises ValueError for any other path.
    """
    name = name.strip()
    for folder in folder_paths.get_folder_paths("diffusers"):
        path = Path(folder) / name
        if _within(path, Path(folder)) and (path / "model_index.json").is_file():
            return str(path)
    if not re.fullmatch(r"([\w-][\w.-]*/[\w-][\w.-]*)?", name):
        raise ValueError(
            "base: expected a Hugging Face id (owner/name) or a diffusers folder with model_index.json in "
            f"ComfyUI's models/diffusers, got {name[:80]!r}"
        )
    return name


def of_images() -> list[Path]:
    """The folders in which the images of a data file may lie: ComfyUI's input and output."""
    return [Path(folder_paths.get_input_directory()), Path(folder_paths.get_output_directory())]


def _within(path: Path, folder: Path) -> bool:
    """Whether ``path`` is written as a path inside ``folder``; links that the user made in there are the user's own."""
    return ".." not in path.parts and path.is_relative_to(folder) and path != folder
