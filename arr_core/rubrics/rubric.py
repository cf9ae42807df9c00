"""A rubric and its file: JSON with provenance, or plain text with one criterion a line."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..common.errors import ArrError, describe_validation_error
from ..common.files import read_text, write_json

Task = Literal["t2i", "edit"]
MAX_BYTES = 2**20

# What begins a theme where a text has headings, and a tip: "# Realism", "Theme: realism", "Tip 1: light falls one way".
_HEADING = re.compile(r"^(?:#+\s+|(?:theme|主题)\s*\d*\s*[:：]\s*)", re.IGNORECASE)
_TIP = re.compile(r"^(?:tips?|提示)\s*\d*\s*[:：]\s*", re.IGNORECASE)
_MARK = re.compile(
    r"^(?:[-*•·]|\d+[.)、])(?:\s+|$)|^\d+、"
)  # of an item of a list, in English or Chinese


class RubricError(ArrError, ValueError):
    """A rubric that cannot be used or made: one line that says what and where."""


def _one_line(text: str) -> str:
    """The text without line breaks and doubled spaces, so that a number in a list always begins a criterion."""
    text = " ".join(text.split())
    if not text:
        raise ValueError("expected a text that is not empty")
    return text


Line = Annotated[str, AfterValidator(_one_line)]


class Theme(BaseModel):
    """One thing to look at, and tips that say how it shows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    theme: Line = Field(description="What is looked at")
    tips: tuple[Line, ...] = Field(default=(), description="How to see whether a picture meets it")


class Rubric(BaseModel):
    """What two pictures are compared by, for one task: plain criteria, or themes with tips."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Short name")
    task: Task = Field(description="Text to image, or editing")
    language: str = Field(default="en", description="Language of the criteria: en, zh, ...")
    criteria: tuple[Line, ...] = Field(
        default=(), description="Criteria, decided jointly; none weighs more by its place"
    )
    themes: tuple[Theme, ...] = Field(
        default=(), description="Themes with tips, in place of plain criteria"
    )
    provenance: dict[str, Any] = Field(
        default_factory=dict, description="Model, seed data, date, held-out accuracy, ..."
    )

    @model_validator(mode="after")
    def _has_one_form(self) -> Rubric:
        if bool(self.criteria) == bool(self.themes):
            raise ValueError(
                "either criteria or themes are expected, at least one of them and not both"
            )
        return self

    @property
    def statements(self) -> tuple[str, ...]:
        """What a picture may meet or fail, one by one: the criteria; or the tips, and the themes that have none."""
        return self.criteria or tuple(
            line for theme in self.themes for line in theme.tips or (theme.theme,)
        )

    @property
    def text(self) -> str:
        """The numbered list that a judge reads; tips are indented below their theme."""
        lines = []
        for number, entry in enumerate(self.criteria or self.themes, 1):
            lines.append(f"{number}. {entry if isinstance(entry, str) else entry.theme}")
            lines += [] if isinstance(entry, str) else [f"   - {tip}" for tip in entry.tips]
        return "\n".join(lines)

    @property
    def content_hash(self) -> str:
        """Sixteen hex digits that name what is judged: the task and what judges read, not the name or the provenance."""
        content = json.dumps([self.task, self.text], ensure_ascii=False)
        return hashlib.sha256(content.encode("utf-8", "backslashreplace")).hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Write the JSON file atomically, the content hash beside the rest."""
        content = {
            name: value
            for name, value in self.model_dump(mode="json").items()
            if value or name == "provenance"
        }
        write_json(path, {**content, "hash": self.content_hash})


def load_rubric(path: str | Path, task: Task | None = None) -> Rubric:
    """The rubric in a ``.json`` file, or in a text file: a criterion a line, or themes with their tips indented below; or the
    built-in one of that name.

    A JSON file knows its task, and ``task`` is what it must be; a text file is about the ``task`` that is asked for.
    Raises RubricError.
    """
    from .built_in import BUILT_IN

    path = Path(path)
    rubric = BUILT_IN.get(str(path))
    if rubric is None or path.exists():
        names = ", ".join(map(repr, BUILT_IN))
        expected = f"a rubric, .json or .txt in UTF-8, or the name of a built-in one ({names})"
        text = read_text(path, expected, RubricError, MAX_BYTES)
        if path.suffix.lower() != ".json":
            if task is None:
                raise RubricError(
                    f"{path}: expected a task with this text file, t2i or edit, since only a JSON file knows its own"
                )
            return parse_rubric(text, task, path)
        rubric = _from_json(path, text)
    if task not in (None, rubric.task):
        raise RubricError(
            f"{path}: expected a rubric for the task {task!r}, got one for {rubric.task!r}"
        )
    return rubric


def _from_json(path: Path, text: str) -> Rubric:
    try:
        content = json.loads(text)
        if isinstance(content, dict):
            content.pop("hash", None)
        return Rubric.model_validate(content)
    except (ValueError, RecursionError) as error:
        fault = error
        if isinstance(error, ValidationError):
            fault = describe_validation_error(error, fields=Rubric.model_fields)
        raise RubricError(
            f"{path}: expected a rubric in JSON with name, task, and criteria or themes; {fault}"
        ) from error


def parse_rubric(text: str, task: Task, path: Path) -> Rubric:
    """The rubric in a text: a criterion a line, or themes with their tips indented below. ``path`` gives it its name.

    Raises RubricError.
    """
    entries: list[tuple[str, list[str]]] = []
    margin = None
    lines = [
        (len(line) - len(line.lstrip()), _MARK.sub("", line.strip()).strip())
        for line in text.expandtabs(4).splitlines()
    ]
    headed = any(_HEADING.match(words) for _, words in lines)
    for indent, words in lines:
        heading = _HEADING.match(words)
        words = words[heading.end() :] if heading else _TIP.sub("", words)
        if not words:
            continue
        margin = indent if margin is None else min(margin, indent)
        if entries and (not heading if headed else indent > margin):
            entries[-1][1].append(words)
        else:
            entries.append((words, []))
    if headed and any(tips for _, tips in entries):
        entries = [(theme, tips) for theme, tips in entries if tips]  # a title has none
    if not entries:
        raise RubricError(f"{path}: expected one criterion a line, got nothing")
    themed = any(tips for _, tips in entries)
    return Rubric(
        name=path.stem,
        task=task,
        language="zh" if re.search(r"[\u4e00-\u9fff]", text) else "en",
        criteria=() if themed else tuple(words for words, _ in entries),
        themes=tuple(Theme(theme=theme, tips=tuple(tips)) for theme, tips in entries)
        if themed
        else (),
    )
