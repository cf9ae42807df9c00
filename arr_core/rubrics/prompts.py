"""What the writer of a rubric is asked, the form of its replies, and how they are read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..common.proportions import Proportion
from ..data import Exemplar
from ..judging.parsing import after_thoughts, repaired
from .rubric import Task, Theme

CRITERIA = 5  # per labelled pair
MOST_THEMES = 5
MOST_TIPS = 8  # of a theme: what a judge can still check one by one
LANGUAGES = {"en": "English", "zh": "Simplified Chinese"}


def _object_schema(**properties: Any) -> dict[str, Any]:
    """The JSON schema of an object with these properties and no others."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(properties),
        "properties": properties,
    }


_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}
_THEMES = {"type": "array", "items": _object_schema(theme=_TEXT, tips=_TEXTS)}
CRITERIA_SCHEMA = _object_schema(reason=_TEXT, criteria=_TEXTS)
THEMES_SCHEMA = _object_schema(themes=_THEMES)
CRITERIA_FORM = '{"reason": "what decides between the two images", "criteria": ["...", "...", "...", "...", "..."]}'
THEMES_FORM = '{"themes": [{"theme": "one thing to look at", "tips": ["one sentence", ...]}, ...]}'

SYSTEM = """\
You write criteria by which images are judged. Every criterion
- is one sentence about one image, and can be answered with yes or no by looking at {sight} alone;
- checks one thing, and can be checked without the other criteria;
- never compares: it mentions no other candidate, no "better", no "first image";
- is worded for many {asked}s like this one: it says "the object that the {asked} names", not what that object is.
Write in {language}. Reply with one JSON object and nothing else."""
AIMS = {
    "t2i": "how well the image follows the prompt (objects, attributes, counts, relations, style), realism, composition, "
    "artifacts and beauty",
    "edit": "whether the instruction is carried out, what of the source image had to stay and stayed, how the change blends "
    "in, light and perspective, artifacts",
}

# What gives a comparison away. A comparison with the BASE image of an edit is none: the BASE is no candidate.
_COMPARISON = re.compile(
    r"""
    \b(?i:better|worse|superior|inferior|than\ the\ (?:other|alternative|rest))\b |
    \b(?:PREFERRED|OTHER|FIRST|SECOND)\b |
    \b(?i:the\ other|another|first|second|preferred|chosen|rejected|both|(?:the|of|between|these)\ two)\ (?i:
        images?|pictures?|candidates?)\b |
    \b(?i:image|picture|candidate)\ (?:[12AB]|one|two)\b |
    更好|更差|更优 | [比与和]另一[张幅] | (?:另一|[两二]|第[一二12])[张幅](?:图|照片|候选) |
    图(?:像|片)?[12AB一二] """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Assignment:
    """What a rubric is wanted for: the task, the language of its criteria, and examples of how experts reason."""

    task: Task
    language: str = "en"
    examples: Sequence[Exemplar] = ()

    @property
    def asked(self) -> str:
        """What a user gives beside the source: a prompt, or the instruction of an edit."""
        return "edit instruction" if self.task == "edit" else "prompt"


def comparison(criterion: str) -> str:
    """The words in which a criterion compares candidates, or nothing."""
    found = _COMPARISON.search(criterion)
    return found[0] if found else ""


def write_messages(
    prompt: str, images: Sequence[tuple[str, Any]], assignment: Assignment, failed: str = ""
) -> list[dict[str, Any]]:
    """The question for criteria of a labelled pair. ``images`` are labels with pictures: BASE, PREFERRED, OTHER.

    failed: criteria of an earlier attempt and what went wrong with them, as ``critique`` says it.
    """
    asked = assignment.asked
    content = [
        _text(
            f"{_shown_examples(assignment)}People were shown two images for this {asked}, and liked PREFERRED more.\n"
            f"The {asked}:\n{prompt}"
        )
    ]
    for label, image in images:
        note = " (the source: for comparison, never judged)" if label == "BASE" else ""
        content += [_text(f"{label}{note}:"), {"type": "image", "image": image}]
    ending = _text(
        f"{failed}Look at {AIMS[assignment.task]}. State what decides between the two, then write exactly {CRITERIA} criteria "
        "that PREFERRED meets and OTHER does not, or not all of them. Someone who does not know which is which must come to the "
        f"same choice with them. Reply in this form:\n{CRITERIA_FORM}"
    )
    return _messages(assignment, [*content, ending])


def critique(criteria: Sequence[str], said: str) -> str:
    """The part of a question that tells the writer of an attempt that failed."""
    numbered = "\n".join(f"{number}. {line}" for number, line in enumerate(criteria, 1))
    return f"These criteria did not do:\n{numbered}\nWhat went wrong:\n{said}\nWrite others, or word them anew.\n\n"


def structure_messages(
    criteria: Mapping[str, Proportion], assignment: Assignment
) -> list[dict[str, Any]]:
    """The question for themes with tips, made of verified criteria and how often each decided."""
    groups: dict[Proportion, list[str]] = {}
    for line, decided in sorted(criteria.items(), key=lambda item: -item[1].count):
        groups.setdefault(decided, []).append(f"- {line}")
    listed = "\n".join(
        "\n".join([f"Decided {decided.count} of {decided.total}:", *lines])
        for decided, lines in groups.items()
    )
    return _messages(
        assignment,
        f"Each of these criteria has been verified on pairs of images for some {assignment.asked}. The counts say on how "
        f"many of its pairs it decided as people did:\n{listed}\n\n"
        f"Put them in order: at most {MOST_THEMES} themes that do not overlap, each with tips, at most {MOST_TIPS}. A tip "
        "is a criterion: say the same thing once, keep what holds for many images, leave out what holds for one only, and "
        f"add nothing of your own. What decides most often comes first. Reply in this form:\n{THEMES_FORM}",
    )


def describe_messages(text: str, assignment: Assignment) -> list[dict[str, Any]]:
    """The question for a rubric from a task description, or from a prompt alone."""
    return _messages(
        assignment,
        f"{_shown_examples(assignment)}Images are made for this, which describes a task or is itself one {assignment.asked}:\n"
        f"{text}\n\nWrite a rubric for judging them: at most {MOST_THEMES} themes that do not overlap, each with tips, at "
        f"most {MOST_TIPS}. A tip is a criterion. Look at {AIMS[assignment.task]}, and at what this text asks for in particular. "
        f"What should decide most often comes first. Reply in this form:\n{THEMES_FORM}",
    )


def read_criteria(reply: str) -> tuple[str, ...]:
    """The criteria of a reply. Raises ValueError where there are not as many as were asked for."""
    lines = _lines(_object(reply, "criteria")["criteria"])
    if len(lines) < CRITERIA:
        raise ValueError(f"{len(lines)} criteria in the reply, {CRITERIA} were asked for")
    return tuple(lines[:CRITERIA])


def read_themes(reply: str) -> tuple[Theme, ...]:
    """The themes of a reply, without tips that compare. Raises ValueError where there are none, or too many."""
    entries, themes = _object(reply, "themes")["themes"], []
    for entry in entries if isinstance(entries, list) else ():
        entry = entry if isinstance(entry, dict) else {}
        tips = [line for line in _lines(entry.get("tips")) if not comparison(line)]
        for name in _lines([entry.get("theme")]):
            if tips or not comparison(name):
                themes.append(Theme(theme=name, tips=tuple(tips[:MOST_TIPS])))
    if not 1 <= len(themes) <= MOST_THEMES:
        raise ValueError(f"{len(themes)} themes in the reply, 1 to {MOST_THEMES} were asked for")
    return tuple(themes)


def _lines(value: Any) -> list[str]:
    """The texts of a list, each on one line and once."""
    texts = value if isinstance(value, list) else []
    lines = [" ".join(text.split()) for text in texts if isinstance(text, str)]
    return list(dict.fromkeys(filter(None, lines)))


def _object(reply: str, name: str) -> dict[str, Any]:
    """The JSON object in a reply that holds ``name``: fenced, after a preamble or thoughts, with a comma too many."""
    _, brace, rest = (after_thoughts(reply) or "").partition("{")
    if not brace:
        raise ValueError("no JSON in the reply")
    value = repaired(brace + rest)
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, dict) and name in item:
            return item
    raise ValueError(f"no {name} in the reply")


def _shown_examples(assignment: Assignment) -> str:
    if not assignment.examples:
        return ""
    parts = ["Examples of how experts reason:"]
    for example in assignment.examples:
        lines = [example.prompt, f"Why people chose as they did: {example.rationale}"]
        if example.criteria:
            lines += ["Good criteria:", *(f"- {line}" for line in example.criteria)]
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, "---\n\n"])


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _messages(assignment: Assignment, question: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The chat messages of a question: how criteria are written, then what is asked."""
    edits, language = assignment.task == "edit", assignment.language
    rules = SYSTEM.format(
        sight="the edited image and its BASE" if edits else "the image and its prompt",
        asked=assignment.asked,
        language=LANGUAGES.get(language, language),
    )
    return [{"role": "system", "content": rules}, {"role": "user", "content": question}]
