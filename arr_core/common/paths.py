"""Where the user's own settings are. Light: ComfyUI reads it while it starts."""

from __future__ import annotations

import os
from pathlib import Path


def profiles_file() -> Path:
    """The user's file of judge profiles, whether or not it is there."""
    if os.environ.get("ARR_JUDGES"):
        return Path(os.environ["ARR_JUDGES"])
    home = os.environ.get("APPDATA") if os.name == "nt" else os.environ.get("XDG_CONFIG_HOME")
    return Path(home or Path.home() / ".config") / "arr-rpo" / "judges.yaml"
