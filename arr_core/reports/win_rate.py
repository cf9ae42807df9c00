"""The report of an evaluation: one page, made from what lies in its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..common.files import write_text
from ..training.events import ValidationImage
from .html import plural, render
from .images import embed_inside

MOST_CARDS = 24  # pairs that are shown, decided ones first


def write_report(
    folder: Path, result: Mapping[str, Any], images: Sequence[ValidationImage]
) -> Path:
    """The path of ``report.html`` in the evaluation's folder.

    result: what ``result.json`` holds. images: the pairs; their files are relative to the folder.
    """
    shown = sorted(images, key=lambda image: image.preferred is None)[:MOST_CARDS]
    left = len(images) - len(shown)
    page = render(
        "win_rate.html.jinja",
        result=result,
        shown=shown,
        more=f" {plural(left, 'more pair')} in events.jsonl." if left else "",
        embed=partial(embed_inside, folder),
    )
    write_text(folder / "report.html", page)
    return folder / "report.html"
