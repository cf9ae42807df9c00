"""ARRRubricFromPairs: a rubric from labelled pairs, written, verified, refined, and kept if it helps on held-out pairs."""

from __future__ import annotations

from comfy_api.latest import io

from . import folders
from .judge import JudgeChoice, free_models_for
from .live import Live, wait
from .rubric import OUTPUTS, TASKS, result
from .rubric_from_prompt import LANGUAGES, save
from .schema import JudgeSocket, Node, choice, line, schema

BETTER, ANYWAY = "only if it helps", "in any case"


class ARRRubricFromPairs(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ARRRubricFromPairs",
            [
                choice("pairs_file", [folders.NONE, *folders.data_names()]),
                JudgeSocket.Input("judge"),
                choice("task", TASKS),
                choice("language", LANGUAGES),
                line("save_as", "my rubric"),
                choice("keep", [BETTER, ANYWAY]),
            ],
            {**OUTPUTS, "verdict": io.String},
        )

    @classmethod
    def execute(
        cls, pairs_file, judge: JudgeChoice, task, language, save_as, keep
    ) -> io.NodeOutput:
        with Live(cls) as live:
            from ..arr_core.rubrics.pipeline import from_pairs, open_judge_and_writer
            from ..arr_core.rubrics.prompts import Assignment

            name = save_as.strip()
            path = folders.rubric_file(name)
            pairs = _pairs(pairs_file)
            free_models_for(judge.profile)
            folder, reports = path.with_suffix(".work"), []

            def report() -> None:
                if reports:
                    stage, done, total = reports[-1]
                    live.show_text(f"{stage}: {done} of {total}")
                    live.show_progress(done, total)

            with open_judge_and_writer(judge.profile, folder, task=TASKS[task]) as (asked, writer):
                work = from_pairs(
                    pairs,
                    asked,
                    writer,
                    Assignment(TASKS[task], LANGUAGES[language]),
                    folder=folder,
                    name=path.stem,
                    report_progress=lambda *progress: reports.append(progress),
                )
                outcome = wait(asked.runner.submit(work), report)
            rubric = outcome.rubric or (outcome.candidate if keep == ANYWAY else None)
            if rubric is None:
                raise ValueError(
                    f"{outcome.sentence} Label more pairs, or choose {ANYWAY!r} to see what was written."
                )
            live.show_text(f"{outcome.sentence}{save(rubric, name)}")
        return result(rubric, outcome.sentence)


def _pairs(name: str) -> list:
    """The pairs of a file, whose images lie in ComfyUI's own folders."""
    from ..arr_core.data import load_pairs

    if name == folders.NONE:
        raise ValueError(
            "pairs_file: expected a file of labelled pairs; put one into ComfyUI's input folder and press R"
        )
    path = folders.data_path(name, "pairs_file")
    return load_pairs(path, also=folders.of_images())
