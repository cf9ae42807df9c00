"""What a rubric's file says about where it comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from .. import __version__
from ..data import PreferencePair
from .held_out import Comparison
from .rubric import Rubric
from .splitting import data_hash
from .writing import PairOutcome


def sentence(comparison: Comparison) -> str:
    """What the check on held-out pairs came to."""
    with_rubric, plain = comparison.with_rubric, comparison.without
    if not with_rubric.pairs:
        return f"All {comparison.failed} held-out pairs failed, so nothing shows that the rubric helps; run the command again."
    result = "beats" if comparison.better else "does not beat"
    failed = f" {comparison.failed} more failed." if comparison.failed else ""
    return (
        f"On {with_rubric.pairs} held-out pairs the rubric {result} the same judge without one: {with_rubric.right} right "
        f"and {with_rubric.wrong} wrong against {plain.right} right and {plain.wrong} wrong, the others undecided."
        f"{failed}"
    )


def of_pairs(
    rubric: Rubric,
    model: str,
    seeds: Sequence[PreferencePair],
    outcomes: Sequence[PairOutcome],
    structured: int,
    comparison: Comparison,
    examples: int,
) -> dict[str, Any]:
    """Where a rubric from labelled pairs comes from, and how the judge did with it on held-out pairs."""
    endings = Counter(outcome.ending for outcome in outcomes)
    figures = {}
    for suffix, side in (("", comparison.with_rubric), ("_without_rubric", comparison.without)):
        figures |= {
            f"held_out_accuracy{suffix}": _rounded(side.accuracy.value),
            f"held_out_coverage{suffix}": _rounded(side.coverage.value),
            f"flip_rate{suffix}": _rounded(side.flip_rate.value),
        }
    return {
        "made_from": "labelled pairs",
        **_common(rubric, model, examples),
        "seed_pairs": len(seeds),
        "seed_data_hash": data_hash(seeds),
        **{
            f"pairs_{ending}": endings[ending]
            for ending in ("kept", "refined", "discarded", "failed")
        },
        "criteria_structured": structured,
        "held_out_pairs": comparison.with_rubric.pairs,
        **figures,
        "beats_judge_without_rubric": comparison.better,
        "p_value": _rounded(comparison.p_value),
    }


def of_description(rubric: Rubric, model: str, text: str, examples: int) -> dict[str, Any]:
    """Where a rubric from a description comes from."""
    return {
        "made_from": "a description",
        "description": text[:2000],
        **_common(rubric, model, examples),
    }


def edited(rubric: Rubric) -> bool:
    """Whether the rubric is another than the one that its provenance is about: somebody has improved it by hand."""
    return rubric.provenance.get("rubric_hash") not in (None, rubric.content_hash)


def _common(rubric: Rubric, model: str, examples: int) -> dict[str, Any]:
    today = datetime.now(timezone.utc).date().isoformat()
    return {
        "model": model,
        "date": today,
        "version": __version__,
        "rubric_hash": rubric.content_hash,
        "examples": examples,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
