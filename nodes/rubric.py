"""ARRRubric: the criteria under which images are compared, built in, from a file, or typed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from comfy_api.latest import io

from . import folders
from .live import Live
from .schema import Node, RubricSocket, choice, line, schema

if TYPE_CHECKING:
    from ..arr_core.rubrics import Rubric
    from ..arr_core.rubrics.rubric import Task

TASKS: dict[str, Task] = {"text to image": "t2i", "image editing": "edit"}
# The names of arr_core.rubrics.BUILT_IN, which is not imported for a list, and what the embedded judge brings.
OWN = {f"built-in: {name}": name for name in ("t2i", "edit", "t2i zh", "edit zh")}
EMBEDDED: dict[str, Task] = {"built-in: miniature t2i": "t2i", "built-in: miniature edit": "edit"}
TYPED = "typed below"
# The outputs that every rubric node has.
OUTPUTS = {"rubric": RubricSocket, "text": io.String}


class ARRRubric(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ARRRubric",
            [
                choice("source", options()),
                choice("task", TASKS),
                line("text", multiline=True),
            ],
            OUTPUTS,
        )

    @classmethod
    def execute(cls, source, task, text) -> io.NodeOutput:
        with Live(cls) as live:
            rubric = read(source, TASKS[task], text)
            live.show_text(rubric.text)
        return result(rubric)


def options() -> list[str]:
    """What the list of rubrics offers."""
    saved = sorted(path.stem for path in folders.output("rubrics").glob("*.json"))
    return [
        *OWN,
        *EMBEDDED,
        TYPED,
        *(f"{folders.SAVED}{name}" for name in saved),
        *(f"{folders.FILE}{name}" for name in folders.data_names() if not name.endswith(".jsonl")),
    ]


def result(rubric: Rubric, *more) -> io.NodeOutput:
    """The rubric and its text, also as what the node shows."""
    return io.NodeOutput(rubric, rubric.text, *more, ui={"text": [rubric.text]})


def read(source: str, task: Task, text: str) -> Rubric:
    """The rubric that an entry of the list stands for. Raises RubricError and ValueError."""
    from ..arr_core.judging.profiles import default_rubric
    from ..arr_core.rubrics import BUILT_IN, load_rubric, parse_rubric

    if source == TYPED:
        return parse_rubric(text, task, Path("typed text"))
    if source in EMBEDDED:
        return default_rubric("miniature", EMBEDDED[source])
    if source in OWN:
        return BUILT_IN[OWN[source]]
    path = folders.rubric_path(source)
    if path is None:
        raise ValueError(f"source: expected one of {', '.join(options())}, got {source[:80]!r}")
    return load_rubric(path, None if path.suffix == ".json" else task)
