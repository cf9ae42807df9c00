"""What every node's schema is made of: the category, our own sockets, and fields that only newer ComfyUIs know."""

from __future__ import annotations

import inspect
from contextlib import contextmanager

from comfy_api.latest import io

from ..arr_core.common.errors import ArrError
from .live import Live

CATEGORY = "ARR-RPO"

RubricSocket = io.Custom("ARR_RUBRIC")
JudgeSocket = io.Custom("ARR_JUDGE")
VerdictSocket = io.Custom("ARR_VERDICT")
RunSocket = io.Custom("ARR_RUN")
LoraModel = io.Custom("LORA_MODEL")
LossMap = io.Custom("LOSS_MAP")

_SCHEMA_FIELDS = frozenset(inspect.signature(io.Schema).parameters)
_HAS_ADVANCED = "advanced" in inspect.signature(io.Int.Input).parameters


def schema(node_id: str, display_name: str, **fields) -> io.Schema:
    """The schema, without the fields that this version of ComfyUI does not know (search_aliases came with 0.16)."""
    known = {name: value for name, value in fields.items() if name in _SCHEMA_FIELDS}
    return io.Schema(node_id=node_id, display_name=display_name, category=CATEGORY, **known)


def advanced() -> dict[str, bool]:
    """Arguments of an input that is folded away, where this version of ComfyUI can fold."""
    return {"advanced": True} if _HAS_ADVANCED else {}


@contextmanager
def explained(live: Live | None = None):
    """A context whose errors are for people: ours as one plain line, a missing package as the command that installs it.
    ``live`` says it on the node too, where else the last word of its work would stay."""
    try:
        with _in_plain_words():
            yield
    except (ValueError, RuntimeError) as error:
        if live is not None:
            live.say(f"error: {error}")
        raise


@contextmanager
def _in_plain_words():
    try:
        yield
    except ArrError as error:
        # ComfyUI shows an error's type with the module's name, which for a pack is a path of this machine.
        raise ValueError(str(error)) from error
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "comfy", "folder_paths", "server"):
            raise
        raise RuntimeError(_install_text(package)) from error


def _install_text(package: str) -> str:
    import sys
    from pathlib import Path

    requirements = Path(__file__).resolve().parents[1] / "requirements.txt"
    return (
        f"The package {package!r} is missing in ComfyUI's Python. Install what ARR-RPO needs and start ComfyUI again:\n"
        f'"{sys.executable}" -m pip install -r "{requirements}"'
    )
