"""What a vision-language model is asked about a pair, and the form that its answer should have."""

from __future__ import annotations

import hashlib
import json
from typing import Any

SYSTEM = (
    "You compare two images fairly. Look at both, check them against every criterion, state what you see, and "
    "only then decide. The order in which the images are shown means nothing. Reply with one JSON object and "
    "nothing else."
)
FORM = (
    '{"findings": [{"criterion": 1, "first": "what you see in FIRST", "second": "what you see in SECOND"}, ...], '
    '"reason": "one sentence", "preferred": "first" or "second" or "tie"}'
)
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["findings", "reason", "preferred"],
    "properties": {
        "findings": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["criterion", "first", "second"],
                "properties": {
                    "criterion": {"type": "integer"},
                    "first": {"type": "string"},
                    "second": {"type": "string"},
                },
            },
        },
        "reason": {"type": "string"},
        "preferred": {"type": "string", "enum": ["first", "second", "tie"]},
    },
}
BASE = "BASE (the source: for comparison, never ranked)"

LETTER_SYSTEM = (
    "You compare two images fairly, check them against every criterion, and answer with one letter: A or B. "
    "The order in which the images are shown means nothing."
)
LETTERS = ("A", "B")
QUOTED = 1500  # characters of a reply that a repair question repeats


def messages(question) -> list[dict[str, Any]]:
    """The question for findings, reason and verdict: rubric and prompt as text, BASE (for an edit), FIRST and SECOND."""
    asked = _asked(question)
    return [
        {"role": "system", "content": SYSTEM},
        {
            "role": "user",
            "content": [
                *_shown(question, "FIRST", "SECOND"),
                _text(
                    f"Over all criteria jointly, which of FIRST and SECOND answers the {asked} better? Reply in this form:\n{FORM}"
                ),
            ],
        },
    ]


def letter_messages(question) -> list[dict[str, Any]]:
    """The question whose answer is the letter A or B."""
    asked = _asked(question)
    return [
        {"role": "system", "content": LETTER_SYSTEM},
        {
            "role": "user",
            "content": [
                *_shown(question, *LETTERS),
                _text(
                    f"Over all criteria jointly, which of A and B answers the {asked} better? Answer with A or B and nothing else."
                ),
            ],
        },
    ]


def repair_messages(asked: list[dict[str, Any]], reply: str, failure: str) -> list[dict[str, Any]]:
    """The one question after a reply that could not be read: what came, shortened, and the form once more."""
    form = f", no thoughts before it and findings of a few words each, in this form:\n{FORM}"
    return [*asked, *once_more(reply, failure, form)]


def once_more(
    reply: str, failure: str, form: str = ", in the form that was asked for."
) -> list[dict[str, Any]]:
    """What follows a question whose reply cannot be used: the reply, shortened, why, and what is wanted."""
    half = QUOTED // 2
    quoted = reply if len(reply) <= QUOTED else f"{reply[:half]}\n[...]\n{reply[-half:]}"
    return [
        {"role": "assistant", "content": quoted.strip() or "(an empty reply)"},
        {
            "role": "user",
            "content": (
                f"That could not be read: {failure}. Reply once more, with one JSON object and nothing else{form}"
            ),
        },
    ]


def version(mode: str) -> str:
    """Eight hex digits that change with the words of a mode's question: they may change an answer."""

    class Rubric:
        text = "rubric"

    class Asked:
        prompt, source, first, second, rubric, digests = (
            "prompt",
            "source",
            "first",
            "second",
            Rubric,
            (None,) * 3,
        )

    made = {
        "reasons": [messages(Asked), repair_messages([], "", ""), SCHEMA],
        "logits": letter_messages(Asked),
    }[mode]
    return hashlib.sha256(json.dumps(made).encode()).hexdigest()[:8]


def _asked(question) -> str:
    return "edit instruction" if question.source is not None else "prompt"


def _shown(question, first: str, second: str) -> list[dict[str, Any]]:
    content = [
        _text(
            f"The {_asked(question)}:\n{question.prompt}\n\nThe criteria:\n{question.rubric.text}"
        )
    ]
    *digests, source = question.digests
    shown = [*zip((first, second), (question.first, question.second), digests, strict=True)]
    if question.source is not None:
        shown.insert(0, (BASE, question.source, source))
    for label, image, digest in shown:
        content += [
            _text(f"{label}:"),
            {"type": "image", "image": image} | ({"digest": digest} if digest else {}),
        ]
    return content


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
