"""Where the nodes read and write: inside ComfyUI's own folders and nowhere else.

A workflow may come from a stranger. It names things; what a name means is decided here, and a name that leads out of the
folder it belongs to is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

import folder_paths

OWN = "ARR-RPO"  # our folder within ComfyUI's output
RUN = "run: "  # before the name of a run, in a list of adapters
NONE = "(none)"
_listed = SimpleNamespace(
    folder=None, places={}, names=[]
)  # what data_names found, and when its folders had changed last
LONGEST = 180  # bytes of a name; file systems take 255, and endings are added
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?$", re.IGNORECASE)
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


def rubric_file(name: str, what: str = "save_as") -> Path:
    """The file of the rubric called ``name``, whether or not it is there."""
    return rubrics_folder() / f"{file_name(name, what)}.json"


def file_name(name: str, what: str) -> str:
    """``name``, once it is known to be a plain file name. Raises ValueError."""
    if (
        not re.fullmatch(r"\w[\w .-]{0,99}", name)
        or name[-1] in " ."
        or len(name.encode()) > LONGEST
        or RESERVED.match(name)
    ):
        raise ValueError(
            f"{what}: expected a name of letters, digits, spaces, dots, '-' and '_' that is no path, not long and "
            f"none of Windows' own, came {name[:80]!r}"
        )
    return name


def run_folder(name: str) -> Path:
    """The folder of the run called ``name``, whether or not it is there. Raises ValueError for what is no file name."""
    return runs_folder() / file_name(name, "run_name")


def run_names() -> list[str]:
    """The runs that have saved an adapter."""
    return sorted(
        path.parents[1].name for path in runs_folder().glob("*/adapter/adapter_config.json")
    )


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
        raise ValueError(
            f"adapter: expected a file of ComfyUI's loras folders, came {name[:80]!r}; "
            f"put it into {folders[0]} and press R"
        )
    return Path(path)


def adapter_stamp(name: str | None) -> tuple[int, int] | None:
    """What changes when the weights behind an entry of ``adapter_names`` do; None where there are none."""

    def weights() -> Path:
        path = adapter_path(name or "")
        return path / "adapter_model.safetensors" if path.is_dir() else path

    return stamp(weights)


def data_stamp(name: str | None) -> tuple[int, int] | None:
    """What changes when a file of ``data_names`` does; None where there is none."""
    return stamp(lambda: data_path(name or "", ""))


def stamp(find: Callable[[], Path | None]) -> tuple[int, int] | None:
    """Time and size of the file that ``find`` gives; None where it gives or finds none."""
    try:
        path = find()
        return path and (path.stat().st_mtime_ns, path.stat().st_size)
    except (OSError, ValueError):
        return None


def data_names() -> list[str]:
    """The text and JSON files in ComfyUI's input folder, with those of its subfolders. Many inputs offer this list, and the
    folder may hold very many files: it is walked again only when a folder in it has changed."""
    folder = Path(folder_paths.get_input_directory())
    if _listed.folder != folder or any(
        _changed(place) != then for place, then in _listed.places.items()
    ):
        places, names = {}, []
        for place, _, files in os.walk(folder, followlinks=True):
            places[place] = _changed(place)
            names += [
                Path(place, name).relative_to(folder).as_posix()
                for name in files
                if Path(name).suffix in DATA
            ]
        _listed.folder, _listed.places, _listed.names = folder, places, sorted(names)
    return list(_listed.names)


def _changed(place: str) -> int | None:
    try:
        return os.stat(place).st_mtime_ns
    except OSError:
        return None


def data_path(name: str, what: str) -> Path:
    """The file called ``name`` in ComfyUI's input folder. Raises ValueError for any other place."""
    path = _inside(Path(folder_paths.get_input_directory()), name)
    if path.suffix not in DATA or not path.is_file():
        raise ValueError(
            f"{what}: expected a {', '.join(DATA)} file in ComfyUI's input folder, came {name[:80]!r}"
        )
    return path


def base_model(name: str) -> str:
    """A base for training: a diffusers folder of ComfyUI's, or a Hugging Face id. Raises ValueError for any other path."""
    for folder in folder_paths.get_folder_paths("diffusers"):
        path = Path(folder) / name
        if _within(path, Path(folder)) and (path / "model_index.json").is_file():
            return str(path)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        raise ValueError(
            "base: expected a Hugging Face id (owner/name) or a diffusers folder with model_index.json in "
            f"ComfyUI's models/diffusers, came {name[:80]!r}"
        )
    return name


def output_loras() -> Path:
    """Where finished adapters go; ComfyUI lists what is in there among its LoRAs."""
    return Path(folder_paths.get_output_directory()) / "loras" / OWN


def confine(paths: Iterable[Path]) -> None:
    """Raises ValueError unless all files, links followed, lie in ComfyUI's input or output folder."""
    allowed = [
        Path(folder).resolve()
        for folder in (folder_paths.get_input_directory(), folder_paths.get_output_directory())
    ]
    for path in paths:
        if not any(path.resolve().is_relative_to(folder) for folder in allowed):
            raise ValueError(
                f"expected images in ComfyUI's input or output folder, came {str(path)[:200]!r}; copy it there"
            )


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if not _within(path, folder):
        raise ValueError(
            f"expected a name inside of {folder.name}, came {name[:80]!r}, which leads out of it"
        )
    return path


def _within(path: Path, folder: Path) -> bool:
    """Whether ``path`` is written as a path inside ``folder``; links that the user made in there are the user's own."""
    return ".." not in path.parts and path.is_relative_to(folder) and path != folder
