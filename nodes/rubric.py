"""ARRRubric: the criteria under which images are compared, built in, from a file, or typed."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from comfy_api.latest import io

from . import folders
from .live import Live
from .schema import RubricSocket, explained, schema

if TYPE_CHECKING:
    from ..arr_core.rubrics import Rubric

TASKS = {"text to image": "t2i", "image editing": "edit"}
BUILT_IN = (
    "t2i",
    "edit",
    "t2i zh",
    "edit zh",
    "miniature t2i",
    "miniature edit",
)  # arr_core.rubrics.BUILT_IN and those of the embedded judge, unimported
OWN, SAVED, FILE, TYPED = "built-in: ", "saved: ", "file: ", "typed below"


class ARRRubric(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ARRRubric",
            "Rubric",
            is_output_node=True,
            description="The criteria under which a judge compares two images.",
            search_aliases=["criteria", "preference", "arr", "judge"],
            inputs=[
                io.Combo.Input(
                    "source",
                    options=options(),
                    tooltip=(
                        "A built-in rubric, one that was saved by a rubric node, a .json or .txt file of the input folder, or "
                        "what is typed below."
                    ),
                ),
                io.Combo.Input(
                    "task",
                    options=list(TASKS),
                    tooltip="What typed criteria and text files are about.",
                ),
                io.String.Input(
                    "text",
                    default="",
                    multiline=True,
                    tooltip=(
                        "For 'typed below': one criterion a line; lines that are indented are tips for the line above."
                    ),
                ),
            ],
            outputs=outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, source: str) -> bool | str:
        """Files come and go between two refreshes of the page: what is named is looked for when the node runs."""
        return True

    @classmethod
    def fingerprint_inputs(cls, source: str | None, **_) -> object:
        """Changes with the file; a source that comes by a link is not known yet."""
        return folders.stamp(lambda: path_of(source or ""))

    @classmethod
    def execute(cls, source: str, task: str, text: str) -> io.NodeOutput:
        live = Live(cls.hidden.unique_id)
        with explained(live):
            rubric = read(source, TASKS[task], text)
        live.say(rubric.text)
        return result(rubric)


def options() -> list[str]:
    """What the list of rubrics offers."""
    saved = sorted(path.stem for path in folders.rubrics_folder().glob("*.json"))
    return [
        *(f"{OWN}{name}" for name in BUILT_IN),
        TYPED,
        *(f"{SAVED}{name}" for name in saved),
        *(f"{FILE}{name}" for name in folders.data_names() if not name.endswith(".jsonl")),
    ]


def outputs() -> list:
    """The outputs that every rubric node has."""
    return [
        RubricSocket.Output(
            display_name="rubric", tooltip="The rubric, for a judge or a training."
        ),
        io.String.Output(display_name="text", tooltip="The criteria as a judge reads them."),
    ]


def result(rubric: Rubric, *more) -> io.NodeOutput:
    """The rubric and its text, also as what the node shows."""
    return io.NodeOutput(rubric, rubric.text, *more, ui={"text": [rubric.text]})


def read(source: str, task: str, text: str) -> Rubric:
    """The rubric that an entry of the list stands for. Raises RubricError and ValueError."""
    from ..arr_core.judging.profiles import default_rubric
    from ..arr_core.rubrics import BUILT_IN as built_in
    from ..arr_core.rubrics import load_rubric

    if source == TYPED:
        if not text.strip():
            raise ValueError(
                "text: expected one criterion a line, came nothing; type some, or choose a built-in rubric"
            )
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "typed.txt")
            file.write_text(text, encoding="utf-8")
            return load_rubric(file, task)
    name = source.removeprefix(OWN)
    if source.startswith(OWN) and name in BUILT_IN:
        if name.startswith("miniature "):
            return default_rubric("miniature", name.removeprefix("miniature "))
        return built_in[name]
    path = path_of(source)
    if path is None:
        raise ValueError(f"source: expected one of {', '.join(options())}, came {source[:80]!r}")
    return load_rubric(path, None if path.suffix == ".json" else task)


def path_of(source: str) -> Path | None:
    """The file behind an entry of the list, if there is one."""
    if source.startswith(SAVED):
        return folders.rubric_file(source.removeprefix(SAVED), "source")
    return (
        folders.data_path(source.removeprefix(FILE), "source") if source.startswith(FILE) else None
    )
