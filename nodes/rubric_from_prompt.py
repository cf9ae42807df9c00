"""ARRRubricFromPrompt: a rubric that a language model writes from a description of what is wanted."""

from __future__ import annotations

from comfy_api.latest import io

from . import folders
from .judge import make_room
from .live import Live, asked
from .rubric import TASKS, outputs, result
from .schema import JudgeSocket, explained, schema

LANGUAGES = {"English": "en", "中文": "zh"}


class ARRRubricFromPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ARRRubricFromPrompt",
            "Rubric from a Description",
            is_output_node=True,
            description=(
                "A model writes criteria from a prompt or a description of the task. Nothing verifies them: read them, or "
                "check them with labelled pairs."
            ),
            search_aliases=["criteria", "write rubric", "auto rubric", "arr"],
            inputs=[
                io.String.Input(
                    "description",
                    default="",
                    multiline=True,
                    tooltip="A prompt, or what makes an image good.",
                ),
                JudgeSocket.Input(
                    "judge", tooltip="Whose model writes: a profile of kind openai or local."
                ),
                io.Combo.Input("task", options=list(TASKS), tooltip="What the rubric is for."),
                io.Combo.Input(
                    "language", options=list(LANGUAGES), tooltip="Language of the criteria."
                ),
                io.String.Input(
                    "save_as",
                    default="",
                    tooltip=(
                        "A name under which Rubric nodes find it later (output/ARR-RPO/rubrics); empty saves nothing."
                    ),
                ),
            ],
            outputs=outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, description: str, judge, task: str, language: str, save_as: str
    ) -> io.NodeOutput:
        live = Live(cls.hidden.unique_id)
        with explained(live):
            from ..arr_core.judging.profiles import make_chat
            from ..arr_core.rubrics import from_description_async

            if save_as.strip():
                folders.rubric_file(
                    save_as.strip()
                )  # a name that cannot be is found out before anything is paid
            live.say(f"{judge.profile} writes ...")
            make_room(judge.profile)
            chat = make_chat(judge.profile)
            rubric = asked(
                chat,
                from_description_async(
                    description, chat, task=TASKS[task], language=LANGUAGES[language]
                ),
            )
            where = save(rubric, save_as.strip()) if save_as.strip() else ""
        live.say(f"{len(rubric.statements)} criteria{where}")
        return result(rubric)


def save(rubric, name: str) -> str:
    """Where the rubric was saved, in words. Another rubric of this name is kept: the new one's hash is added then."""
    from ..arr_core.rubrics import load_rubric

    folders.rubrics_folder().mkdir(parents=True, exist_ok=True)
    path = folders.rubric_file(name)
    if path.exists() and load_rubric(path).content_hash != rubric.content_hash:
        path = folders.rubric_file(f"{name}-{rubric.content_hash[:8]}")
    rubric.save(path)
    return f", saved as {path.stem}"
