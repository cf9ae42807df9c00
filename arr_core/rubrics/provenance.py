"""What a rubric's file says about where it comes from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timezone

from .. import __version__
from ..data import PreferencePair
from .rubric import Rubric


def with_provenance(
    rubric: Rubric, made_from: str, *, model: str, examples: int, **facts: object
) -> Rubric:
    """The rubric with its provenance: the model that wrote it, when, and further facts. Numbers keep four digits."""
    rounded = {
        name: float(f"{value:.4g}") if isinstance(value, float) else value
        for name, value in facts.items()
    }
    provenance = {
        "made_from": made_from,
        "model": model,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "version": __version__,
        "rubric_hash": rubric.content_hash,
        "examples": examples,
        **rounded,
    }
    return rubric.model_copy(update={"provenance": provenance})


def edited(rubric: Rubric) -> bool:
    """Whether the rubric was edited by hand since its provenance was written."""
    return rubric.provenance.get("rubric_hash") not in (None, rubric.content_hash)


def data_hash(pairs: Sequence[PreferencePair]) -> str:
    """Sixteen hex digits that name prompts, labels and the images' files by content."""
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(repr((pair.prompt, pair.preferred)).encode("utf-8", "backslashreplace"))
        for path in pair.files:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
