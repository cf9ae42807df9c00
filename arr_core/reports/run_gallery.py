"""Held-out prompts as the base and the policy draw them, and what the judge said."""

from __future__ import annotations

from pathlib import Path

from ..training.events import History, ValidationEvent, ValidationImage
from .pictures import picture
from .words import plural, section, text

FRAMES = 8  # pictures of one prompt over time
FRAME_SIZE = 144  # pixels; they are shown at half of it


def before_and_after(run: History, folder: Path) -> str:
    """A card for each picture of the last validation that has any, with its predecessors folded away."""
    shown = [event for event in run.validations if event.images]
    if not shown:
        return ""
    last = shown[-1]
    samples = last.images
    cards = "".join(
        _card(sample, [(event.update, _same(event, sample)) for event in _spread(shown)], folder)
        for sample in samples
    )
    kind = " edit" if any(sample.source for sample in samples) else ""
    return section(
        f"Before and after {plural(last.update, 'update')}",
        "Held-out prompts at the same seeds. What the judge preferred is framed.",
        f'<div class="cards{kind}">{cards}</div>',
    )


def _card(
    sample: ValidationImage, film: list[tuple[int, ValidationImage | None]], folder: Path
) -> str:
    prompt, preferred = sample.prompt, sample.preferred
    sides = [side for side in ("source", "base", "policy") if side != "source" or sample.source]
    row = "".join(
        _side(sample, side, prompt, preferred == side and side != "source", folder)
        for side in sides
    )
    said = sample.reason
    if preferred not in ("base", "policy"):
        said = said.removeprefix("undecided: ")
        said = f"Undecided: {said}" if said else "Undecided."
    reason = f'<p class="reason" dir="auto">{text(said)}</p>' if said else ""
    frames = [(update, frame) for update, frame in film if frame]
    strip = _film(frames, prompt, folder) if len(frames) > 1 else ""
    return (
        f'<article class="card"><h3 class="prompt" dir="auto">{text(prompt)}</h3>'
        f'<div><div class="row">{row}</div>{reason}{strip}</div></article>'
    )


def _side(sample: ValidationImage, side: str, prompt: str, preferred: bool, folder: Path) -> str:
    caption = f"{side}, preferred" if preferred else side
    return (
        f'<figure class="{"preferred" if preferred else side}">'
        f"{picture(folder, getattr(sample, side), f'{side}: {prompt}')}<figcaption>{caption}</figcaption></figure>"
    )


def _film(frames: list[tuple[int, ValidationImage]], prompt: str, folder: Path) -> str:
    figures = "".join(
        f"<figure>{picture(folder, frame.policy, f'after update {update}: {prompt}', FRAME_SIZE)}"
        f"<figcaption>{update}</figcaption></figure>"
        for update, frame in frames
    )
    return f'<details><summary>The policy over updates</summary><div class="film">{figures}</div></details>'


def _same(event: ValidationEvent, sample: ValidationImage) -> ValidationImage | None:
    """The picture of the same prompt at another validation."""
    return next((other for other in event.images if other.prompt == sample.prompt), None)


def _spread(events: list[ValidationEvent]) -> list[ValidationEvent]:
    """At most FRAMES of the events, evenly, with the first and the last."""
    if len(events) <= FRAMES:
        return events
    return [events[round(place * (len(events) - 1) / (FRAMES - 1))] for place in range(FRAMES)]
