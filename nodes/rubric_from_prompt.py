"""ARRRubricFromPrompt: a rubric that a language model writes from a description of what is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from . import folders
from .judge import JudgeChoice, free_models_for
from .live import Live, wait
from .rubric import OUTPUTS, TASKS, result
from .schema import JudgeSocket, Node, choice, line, schema

if TYPE_CHECKING:
    from ..arr_core.rubrics import Rubric

LANGUAGES = {"English": "en", "中文": "zh"}


class ARRRubricFromPrompt(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ARRRubricFromPrompt",
            [
                line("description", multiline=True),
                JudgeSocket.Input("judge"),
                choice("task", TASKS),
                choice("language", LANGUAGES),
                line("save_as"),
            ],
            OUTPUTS,
        )

    @classmethod
    def execute(cls, description, judge: JudgeChoice, task, language, save_as) -> io.NodeOutput:
        with Live(cls) as live:
            from ..arr_core.common.async_runner import AsyncRunner
            from ..arr_core.judging.profiles import make_chat
            from ..arr_core.rubrics.prompts import Assignment
            from ..arr_core.rubrics.writer import from_description

            name = save_as.strip()
            if name:
                folders.rubric_file(name)  # a wrong name is refused before anything is paid
            live.show_text(f"{judge.profile} writes ...")
            free_models_for(judge.profile)
            chat = make_chat(judge.profile)
            assignment = Assignment(TASKS[task], LANGUAGES[language])

            async def write() -> Rubric:
                try:
                    return await from_description(description, chat, assignment)
                finally:
                    await chat.close()

            with AsyncRunner("node") as runner:
                rubric = wait(runner.submit(write()))
            saved = save(rubric, name) if name else ""
            live.show_text(f"{len(rubric.statements)} criteria{saved}")
        return result(rubric)


def save(rubric: Rubric, name: str) -> str:
    """Where the rubric was saved, in words. Another rubric of this name is kept: the new one's hash is added then."""
    from ..arr_core.rubrics import load_rubric

    path = folders.rubric_file(name)
    if path.exists() and load_rubric(path).content_hash != rubric.content_hash:
        path = folders.rubric_file(f"{name}-{rubric.content_hash[:8]}")
    rubric.save(path)
    return f", saved as {path.stem}"
