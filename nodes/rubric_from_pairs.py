"""ARRRubricFromPairs: a rubric from labelled pairs, written, verified, refined, and kept if it helps on held-out pairs."""

from __future__ import annotations

from comfy_api.latest import io

from . import folders
from .judge import make_room
from .live import Live, asked
from .rubric import TASKS, outputs, result
from .rubric_from_prompt import LANGUAGES, save
from .schema import JudgeSocket, explained, schema

BETTER, ANYWAY = "only if it helps", "in any case"


class ARRRubricFromPairs(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ARRRubricFromPairs",
            "Rubric from Labelled Pairs",
            is_output_node=True,
            description=(
                "Auto-Rubric: criteria are written for pairs that people have labelled, verified in both orders, refined, "
                "put in order, and checked on held-out pairs against the judge without them. Cancelled or killed, it goes on "
                "where it was and pays nothing twice."
            ),
            search_aliases=["auto rubric", "criteria", "preference pairs", "arr"],
            inputs=[
                io.Combo.Input(
                    "pairs_file",
                    options=[folders.NONE, *folders.data_names()],
                    tooltip=(
                        "A .json or .jsonl file in the input folder: of each pair prompt, images (two paths) and label_rank, "
                        "[1, 2] or [2, 1], where 1 is the better one."
                    ),
                ),
                JudgeSocket.Input(
                    "judge",
                    tooltip="Whose model writes and verifies: a profile of kind openai or local.",
                ),
                io.Combo.Input(
                    "task",
                    options=list(TASKS),
                    tooltip="What the pairs are: images of prompts, or edits.",
                ),
                io.Combo.Input(
                    "language", options=list(LANGUAGES), tooltip="Language of the criteria."
                ),
                io.String.Input(
                    "save_as",
                    default="my rubric",
                    tooltip="Name under which Rubric nodes find it later.",
                ),
                io.Combo.Input(
                    "keep",
                    options=[BETTER, ANYWAY],
                    tooltip=(
                        "Whether a rubric that does not help on held-out pairs is an error, or comes out all the same."
                    ),
                ),
            ],
            outputs=[
                *outputs(),
                io.String.Output(display_name="verdict", tooltip="Accuracy on held-out pairs."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, pairs_file: str) -> bool | str:
        """Files come and go between two refreshes of the page: what is named is looked for when the node runs."""
        return True

    @classmethod
    def fingerprint_inputs(cls, pairs_file: str | None, **_) -> object:
        """Changes with the file, so that pairs which were added are read."""
        return folders.data_stamp(pairs_file)

    @classmethod
    def execute(
        cls, pairs_file: str, judge, task: str, language: str, save_as: str, keep: str
    ) -> io.NodeOutput:
        live = Live(cls.hidden.unique_id)
        with explained(live):
            path = folders.rubric_file(save_as.strip())
            outcome = _work(_pairs(pairs_file), judge, TASKS[task], LANGUAGES[language], path, live)
            rubric = outcome.rubric or (outcome.candidate if keep == ANYWAY else None)
            if rubric is None:
                raise ValueError(
                    f"{outcome.sentence} Label more pairs, or choose {ANYWAY!r} to see what was written."
                )
            where = save(rubric, save_as.strip())
        live.say(f"{outcome.sentence}{where}")
        return result(rubric, outcome.sentence)


def _pairs(name: str) -> list:
    """The pairs of a file, whose images lie in ComfyUI's own folders."""
    from ..arr_core.data import load_pairs

    if name == folders.NONE:
        raise ValueError(
            "pairs_file: expected a file of labelled pairs; put one into ComfyUI's input folder and press R"
        )
    pairs = load_pairs(folders.data_path(name, "pairs_file"))
    folders.confine(
        path for pair in pairs for path in (*pair.images, *([pair.source] if pair.source else []))
    )
    return pairs


def _work(pairs: list, judge, task: str, language: str, path, live: Live):
    """What comes of the pairs."""
    from ..arr_core.judging.profiles import make_chat
    from ..arr_core.rubrics import from_pairs_async

    make_room(judge.profile)
    steps, chat = [], make_chat(judge.profile)
    return asked(
        chat,
        from_pairs_async(
            pairs,
            chat,
            task=task,
            language=language,
            folder=path.with_suffix(".work"),
            observer=steps.append,
            name=path.stem,
        ),
        lambda: _tell(steps, live),
    )


def _tell(steps: list, live: Live) -> None:
    if steps:
        last = steps[-1]
        live.say(f"{last.stage}: {last.done} of {last.total}")
        live.show(last.done, last.total)
