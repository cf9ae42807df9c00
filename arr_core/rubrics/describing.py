"""A rubric from a task description or a prompt alone: no picture is shown, and nothing verifies it."""

from __future__ import annotations

from collections.abc import Sequence

from ..data import Exemplar
from ..judging.chat import Chat
from .asking import Asker, NoAnswer
from .blocking import blocking
from .prompts import THEMES_SCHEMA, describe_messages, read_themes
from .provenance import of_description
from .rubric import Rubric, RubricError, Task


def from_description(
    text: str, chat: Chat, *, task: Task, language: str = "en", examples: Sequence[Exemplar] = ()
) -> Rubric:
    """The rubric that a chat model writes from a task description or a prompt; nothing has verified it.

    Blocks, and closes the chat, whose connections live no longer than this call. Raises RubricError, JudgeError.
    """
    return blocking(
        chat, from_description_async(text, chat, task=task, language=language, examples=examples)
    )


async def from_description_async(
    text: str, chat: Chat, *, task: Task, language: str = "en", examples: Sequence[Exemplar] = ()
) -> Rubric:
    """The same, for a caller with a loop of its own; the chat stays open."""
    text = text.strip()
    if not text:
        raise RubricError("expected a task description or a prompt, came nothing")
    try:
        themes = await Asker(chat).ask(
            describe_messages(text, task=task, language=language, examples=examples),
            THEMES_SCHEMA,
            read_themes,
        )
    except NoAnswer as error:
        raise RubricError(f"no rubric came from {chat.identity}: {error}") from None
    name = " ".join(text.split())
    rubric = Rubric(
        name=name if len(name) <= 60 else f"{name[:57]}...",
        task=task,
        language=language,
        themes=themes,
    )
    return rubric.model_copy(
        update={"provenance": of_description(rubric, chat.identity, text, len(examples))}
    )
