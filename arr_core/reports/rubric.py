"""The report of rubric making: one page about what was kept, refined and dropped, why, and whether the rubric helps."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

from ..common.files import write_text
from ..rubrics.pipeline import Outcome
from .html import plural, render
from .images import embed

MOST_CARDS = 60  # pairs that are shown with their images
THUMBNAIL = 320  # pixels
MOST_REASONS = 20
ENDINGS = {
    "kept": "kept at once",
    "refined": "kept after refinement",
    "discarded": "discarded",
    "failed": "failed",
}
TONES = {"kept": "good", "refined": "open", "discarded": "bad", "failed": "warn"}


def write_report(outcome: Outcome, path: str | Path, name: str) -> Path:
    """The path of the page. All text is escaped."""
    pairs = sorted(
        zip(outcome.pairs, outcome.outcomes, strict=True),
        key=lambda both: [*ENDINGS].index(both[1].ending),
        reverse=True,
    )
    left = len(pairs) - MOST_CARDS
    page = render(
        "rubric.html.jinja",
        name=name,
        outcome=outcome,
        provenance=outcome.candidate.provenance if outcome.candidate else {},
        labels=ENDINGS,
        tones=TONES,
        reasons=Counter(one.reason for one in outcome.outcomes if one.reason).most_common(
            MOST_REASONS
        ),
        shown=pairs[:MOST_CARDS],
        more=f" {plural(left, 'more pair')} in pairs.jsonl." if left > 0 else "",
        verified=len({line for one in outcome.outcomes for line in one.criteria}),
        embed=partial(embed, largest=THUMBNAIL),
    )
    write_text(path, page)
    return Path(path)
