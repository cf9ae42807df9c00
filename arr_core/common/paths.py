"""Where the user's own settings and the package's own files are. Light: ComfyUI reads it while it starts."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import ArrError

IMAGE_FOLDERS = "ARR_IMAGES"  # folders beside its own from which a data file may name images
PACKAGE = Path(__file__).resolve().parents[1]


class ResourceError(ArrError, ValueError):
    """A name of one of the package's files that leads out of it."""


def resource(name: str | os.PathLike) -> Path | None:
    """The file or folder that ``room:path`` names in this package, whether or not it is there; None for other names.

    ``miniature:data/prompts_train.txt`` is one. Such a name means the same on every machine. Raises ResourceError for a
    path that leaves its room.
    """
    room, colon, path = str(name).partition(":")
    folder = PACKAGE / room
    if not colon or not room.isidentifier() or not (folder / "__init__.py").is_file():
        return None
    file = (folder / path).resolve()
    if not file.is_relative_to(folder):
        raise ResourceError(f"{name}: expected a path inside of {room}, got one that leaves it")
    return file


def profiles_file() -> Path:
    """The user's file of judge profiles, whether or not it is there."""
    if os.environ.get("ARR_JUDGES"):
        return Path(os.environ["ARR_JUDGES"])
    home = os.environ.get("APPDATA") if os.name == "nt" else os.environ.get("XDG_CONFIG_HOME")
    return Path(home or Path.home() / ".config") / "arr-rpo" / "judges.yaml"
