"""The report of an evaluation: one page that needs no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..common.files import write_text
from ..training.events import ValidationImage
from .charts import interval
from .page import fill
from .pictures import picture
from .words import percent, plural, section, text

SHOWN = 24  # pairs whose images the report shows


def write_report(
    folder: Path, result: Mapping[str, Any], images: Sequence[ValidationImage]
) -> Path:
    """The path of ``report.html`` in the evaluation's folder. Decided pairs are shown first."""
    rate = result["win_rate"]
    tile = ""
    if rate is not None:
        bar = interval(rate, result["low"], result["high"], 0, 1, half=True)
        tile = (
            f'<div class="tiles"><div class="tile"><p class="label">Win rate</p><p class="big">{percent(rate)}</p>'
            f'<p class="sub">95 % interval {percent(result["low"])} to {percent(result["high"])}</p>{bar}</div></div>'
        )
    facts = [
        plural(result["prompts"], "prompt"),
        f"{plural(len(result['seeds']), 'seed')} each",
        f"{result['steps']} steps",
        f"base {result['base']}",
        f"rubric {result['rubric']}",
    ]
    cards = "".join(
        _card(entry, result, folder)
        for entry in sorted(images, key=lambda image: image.preferred is None)[:SHOWN]
    )
    body = (
        f'<header><p class="over">Win rate</p><h1>{text(result["name"])} against {text(result["against"])}</h1>'
        f'<p class="facts">{"".join(f"<span>{text(fact)}</span>" for fact in facts)}</p>'
        f'<p class="sentence">{text(result["sentence"])}</p>{tile}</header>'
        + section(
            "Pairs",
            "Same prompt, same seed. What the judge preferred is framed.",
            f'<div class="cards">{cards}</div>',
        )
    )
    page = fill(f"{text(result['name'])} &middot; win rate", body)
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _card(entry: ValidationImage, result: Mapping[str, Any], folder: Path) -> str:
    names = {"source": "source", "policy": result["name"], "base": result["against"]}
    sides = "".join(
        f"<figure{' class=preferred' * (entry.preferred == side)}>{picture(folder, getattr(entry, side), entry.prompt)}"
        f"<figcaption>{text(name)}</figcaption></figure>"
        for side, name in names.items()
        if getattr(entry, side)
    )
    return (
        f'<article class="card"><h3 class="prompt" dir="auto">{text(entry.prompt)}</h3>'
        f'<div><div class="row">{sides}</div><p class="reason" dir="auto">{text(entry.reason)}</p></div></article>'
    )
