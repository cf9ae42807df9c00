"""The report of rubric making: one page about what was kept, refined and dropped, why, and whether the rubric helps."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ..common.files import write_text
from ..data import open_image
from ..rubrics.making import Outcome
from .html import plural, render
from .images import EmbeddedImage, embed

MOST_CARDS = 60  # pairs that are shown with their images
THUMBNAIL = 320  # pixels
MOST_REASONS = 20
TASKS = {"t2i": "text to image", "edit": "image editing"}
ENDINGS = {
    "kept": "kept at once",
    "refined": "kept after refinement",
    "discarded": "discarded",
    "failed": "failed",
}
TONES = {"kept": "good", "refined": "open", "discarded": "bad", "failed": "warn"}
SHOWN_FIRST = ("discarded", "failed", "refined", "kept")


def write_report(outcome: Outcome, path: str | Path, name: str) -> Path:
    """The path of the page. All text is escaped."""
    pairs = sorted(
        zip(outcome.pairs, outcome.outcomes, strict=True),
        key=lambda both: SHOWN_FIRST.index(both[1].ending),
    )
    left = len(pairs) - MOST_CARDS
    tone, verdict = _verdict(outcome)
    page = render(
        "rubric.html.jinja",
        name=name,
        outcome=outcome,
        task=TASKS[outcome.candidate.task] if outcome.candidate else "",
        provenance=outcome.candidate.provenance if outcome.candidate else {},
        tone=tone,
        verdict=verdict,
        labels=ENDINGS,
        tones=TONES,
        reasons=Counter(one.reason for one in outcome.outcomes if one.reason).most_common(
            MOST_REASONS
        ),
        shown=pairs[:MOST_CARDS],
        more=f" {plural(left, 'more pair')} in pairs.jsonl." if left > 0 else "",
        verified=len({line for one in outcome.outcomes for line in one.criteria}),
        embed=_embed,
    )
    write_text(path, page)
    return Path(path)


def _verdict(outcome: Outcome) -> tuple[str, str]:
    """(tone, sentence): whether the rubric was kept, and how sure that is."""
    comparison = outcome.comparison
    if outcome.candidate is None:
        return "bad", "No rubric came of these pairs."
    if outcome.rubric is None or comparison is None:
        return "bad", "Not kept: nothing shows that the rubric makes the judge better."
    if comparison.sure:
        return "good", "Kept: the rubric makes the judge better."
    if comparison.gained <= comparison.lost:
        return "warn", (
            "Kept: right less wrong verdicts are more with the rubric, but no more pairs changed for the better than for "
            "the worse."
        )
    return "warn", "Kept: the judge did better with the rubric, on too few pairs to be sure."


def _embed(path: Path) -> EmbeddedImage | None:
    try:
        return embed(open_image(path), THUMBNAIL)
    except (OSError, ValueError, SyntaxError):
        return None
