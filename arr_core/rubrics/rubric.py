"""A rubric and its file: JSON with provenance, or plain text with one criterion a line."""
from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..miniature import criteria as miniature


class RubricError(ValueError):
    """A rubric file that cannot be used: one line that says what and where."""


class Rubric(BaseModel):
    """Criteria that one picture meets or fails, for one task. Every criterion can be checked by looking at one pair."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Short name")
    task: Literal["t2i", "edit"] = Field(description="Text to image, or editing")
    criteria: tuple[str, ...] = Field(min_length=1, description="Criteria, decided jointly; none weighs more by its place")
    provenance: dict[str, Any] = Field(default_factory=dict, description="Model, seed data, date, held-out accuracy, ...")

    @property
    def content_hash(self) -> str:
        """Sixteen hex digits that name what is judged: the task and the criteria, not the name or the provenance."""
        content = json.dumps([self.task, list(self.criteria)], ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def text(self) -> str:
        """The numbered list that a judge reads."""
        return "\n".join(f"{number}. {criterion}" for number, criterion in enumerate(self.criteria, 1))

    def save(self, path: str | Path) -> None:
        """Write the JSON file, the content hash beside the rest."""
        content = {**self.model_dump(mode="json"), "hash": self.content_hash}
        Path(path).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_rubric(path: str | Path, task: Literal["t2i", "edit"]) -> Rubric:
    """The rubric in a ``.json`` file, or in a text file with one criterion a line. Raises RubricError."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RubricError(f"{path}: expected a rubric, .json or .txt in UTF-8; {error}") from error
    if path.suffix != ".json":
        lines = tuple(re.sub(r"^(?:[-*•]|\d+[.)])(?:\s+|$)", "", line.strip()) for line in text.splitlines() if line.strip())
        if not any(lines):
            raise RubricError(f"{path}: expected one criterion a line, came an empty file")
        return Rubric(name=path.stem, task=task, criteria=tuple(filter(None, lines)))
    try:
        content = json.loads(text)
        if isinstance(content, dict):
            content.pop("hash", None)
        rubric = Rubric.model_validate(content)
    except (json.JSONDecodeError, ValidationError) as error:
        reason = str(error).replace("\n", " ")[:300]
        raise RubricError(f"{path}: expected a rubric with name, task and criteria; {reason}") from error
    if rubric.task != task:
        raise RubricError(f"{path}: expected a rubric for the task {task!r}, came one for {rubric.task!r}")
    return rubric


BUILT_IN: dict[str, Rubric] = {
    "t2i": Rubric(name="text to image", task="t2i", criteria=(
        "Every object that the prompt names is in the image, and nothing that contradicts the prompt is.",
        "Each object has the colour, material, size and other attributes that the prompt gives to it and not to another.",
        "The number of each object is the number that the prompt asks for.",
        "Objects stand and act in the relations that the prompt states: left, right, above, holding, behind.",
        "The style, medium and mood are those that the prompt asks for.",
        "Anatomy, perspective and light are coherent: no extra limbs, fused objects or impossible shadows.",
        "The image is free of artifacts: no smears, seams, noise, garbled text or watermarks.",
        "The composition is balanced, the subject is clear, and the image is pleasant to look at.")),
    "edit": Rubric(name="image editing", task="edit", criteria=(
        "The change that the instruction asks for is made, completely, and to the right thing.",
        "Everything that the instruction does not mention is as it was in the BASE image: identity, pose, text, background.",
        "The edited region blends with its surroundings: no halo, seam or change of sharpness at its border.",
        "Light, shadow, colour and perspective of the change agree with the BASE image.",
        "The image is free of new artifacts: no smears, noise, distortions or lost detail.")),
    "miniature t2i": Rubric(name="miniature", task="t2i", criteria=miniature.T2I),
    "miniature edit": Rubric(name="miniature edits", task="edit", criteria=miniature.EDIT),
}
