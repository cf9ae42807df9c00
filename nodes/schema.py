"""What every node's schema is made of: its texts, our own sockets, and fields that only newer ComfyUIs know."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..arr_core.common.paths import profiles_file
from . import folders

CATEGORY = "ARR-RPO"
# Names, descriptions and tooltips in English, beside those of the other languages.
TEXTS_FILE = Path(__file__).resolve().parents[1] / "locales/en/nodeDefs.json"
TEXTS = json.loads(TEXTS_FILE.read_text(encoding="utf-8"))

RubricSocket = io.Custom("ARR_RUBRIC")
JudgeSocket = io.Custom("ARR_JUDGE")
VerdictSocket = io.Custom("ARR_VERDICT")
RunSocket = io.Custom("ARR_RUN")
LoraModel = io.Custom("LORA_MODEL")
LossMap = io.Custom("LOSS_MAP")

# Since 0.16 ComfyUI finds nodes by other names, and folds inputs away.
NEWER = "search_aliases" in inspect.signature(io.Schema).parameters
ADVANCED: dict[str, Any] = {"advanced": True} if NEWER else {}

# What a widget that names a file stands for.
FILES: dict[str, Callable[[str], Path | None]] = {
    "adapter": folders.adapter_path,
    "against": folders.adapter_path,
    "start_adapter": folders.adapter_path,
    "pairs_file": folders.data_path,
    "prompts_file": folders.data_path,
    "source": folders.rubric_path,
    "profile": lambda name: profiles_file(),
}


class Node(io.ComfyNode):
    """A node whose widgets may name files, which come and go between two refreshes of the page."""

    @classmethod
    def validate_inputs(
        cls,
        adapter=None,
        against=None,
        start_adapter=None,
        pairs_file=None,
        prompts_file=None,
        source=None,
        profile=None,
    ) -> bool:
        """Always True: an input that is named here may be missing in the page's list; it is checked when the node runs."""
        return True

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> object:
        """Changes with the files that the inputs name, so that the node runs again. A linked input is None."""
        return [
            folders.stamp(FILES[name], value[0] if isinstance(value, list) else value)
            for name, value in inputs.items()
            if name in FILES
        ]


def choice(name: str, options: Iterable[str], **more: Any) -> io.Input:
    """A list to choose from; the first is the default."""
    return io.Combo.Input(name, options=[*options], **more)


def line(name: str, default: str = "", **more: Any) -> io.Input:
    """A line of text."""
    return io.String.Input(name, default=default, **more)


def number(name: str, default: float, low: float, high: float, **more: Any) -> io.Input:
    """A number within limits: whole where the default is, or with a ``step``."""
    kind = io.Int if isinstance(default, int) else io.Float
    return kind.Input(name, default=default, min=low, max=high, **more)


def schema(
    node_id: str,
    inputs: Sequence[io.Input],
    outputs: dict[str, type[io.ComfyTypeIO]],
    *,
    is_input_list: bool = False,
    is_output_list: bool = False,
) -> io.Schema:
    """The schema of a node that shows what it does, so that it can be run by itself. Its texts come from ``locales/en``.

    outputs: name -> type. ``is_output_list`` is about all of them.
    """
    texts = TEXTS[node_id]
    for entry in inputs:
        entry.tooltip = texts["inputs"][entry.id]["tooltip"]
    return io.Schema(
        node_id=node_id,
        display_name=texts["display_name"],
        description=texts["description"],
        category=CATEGORY,
        is_output_node=True,
        is_input_list=is_input_list,
        hidden=[io.Hidden.unique_id],
        inputs=inputs,
        outputs=[
            kind.Output(display_name=name, tooltip=text["tooltip"], is_output_list=is_output_list)
            for (name, kind), text in zip(outputs.items(), texts["outputs"].values(), strict=True)
        ],
        **({"search_aliases": texts["search_aliases"]} if NEWER else {}),
    )
