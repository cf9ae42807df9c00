"""The report of a job: one self-contained page about what was kept, refined, dropped and why, and whether it helps."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from ..data import PreferencePair, open_image
from ..judging.metrics import Measures
from ..rubrics.held_out import Comparison
from ..rubrics.making import Outcome
from ..rubrics.rubric import Rubric
from ..rubrics.writing import PairOutcome
from .charts import interval
from .page import fill
from .words import figure, percent, plural, row, section, span, table, text

MOST_CARDS = 60  # pairs that are shown with their pictures, those that say most first
THUMBNAIL = 320  # pixels
ENDINGS = {
    "kept": "kept at once",
    "refined": "kept after refinement",
    "discarded": "discarded",
    "failed": "failed",
}
TONES = {"kept": "good", "refined": "open", "discarded": "bad", "failed": "warn"}
SHOWN_FIRST = ("discarded", "failed", "refined", "kept")
STYLE = """<style>
.share { display: flex; height: .8rem; border-radius: .4rem; overflow: hidden; background: var(--line); margin-bottom: 1.2rem; }
.share span { background: currentColor; } .share span + span { border-left: 2px solid var(--paper); }
.tag { font-size: .85rem; font-weight: 600; }
.tag::before {
  content: ""; display: inline-block; width: .6em; height: .6em; margin-right: .45em; border-radius: 50%;
  background: currentColor;
}
.criteria { padding-left: 1.2rem; margin-top: .5rem; font-size: .9rem; } .criteria li { padding: .1rem 0; }
.try { margin-top: .8rem; font-size: .9rem; } .try pre { max-height: 16rem; white-space: pre-wrap; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(21rem, 100%), 1fr)); gap: 2.4rem 2.25rem; }
.pairs .prompt { margin: .2rem 0 .6rem; max-height: 8.4em; overflow: auto; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); } .tile .big { font-size: 1.8rem; }
.rubric > li { font-weight: 600; padding-top: .5rem; } .rubric ul { font-weight: 400; font-size: 1rem; color: inherit; }
</style>"""


def write_report(outcome: Outcome, path: str | Path, name: str) -> Path:
    """The path of the page. All text is escaped, and the page may load nothing and run nothing."""
    sections = [
        _headline(outcome, name),
        _rubric(outcome),
        _check(outcome.comparison),
        _endings(outcome.outcomes),
        _pairs(outcome.pairs, outcome.outcomes),
        _selected(outcome),
        _cost(outcome),
    ]
    foot = "<footer>Everything that was asked and answered lies in the work folder beside the rubric.</footer>"
    page = fill(
        f"{text(name)} &middot; rubric report", "\n".join([STYLE, *filter(None, sections), foot])
    )
    Path(path).write_bytes(page.encode("utf-8", "replace"))
    return Path(path)


def _headline(outcome: Outcome, name: str) -> str:
    told = outcome.candidate.provenance if outcome.candidate else {}
    facts = [
        {"t2i": "text to image", "edit": "image editing"}.get(
            outcome.candidate.task if outcome.candidate else ""
        ),
        told.get("model"),
        plural(len(outcome.pairs), "seed pair"),
        f"{figure(len(outcome.held_out))} held out",
        told.get("date"),
    ]
    shown = "".join(f"<span>{text(fact)}</span>" for fact in facts if fact)
    if outcome.rubric and outcome.comparison.sure:
        tone, verdict = "good", "Kept: the rubric makes the judge better."
    elif outcome.rubric and outcome.comparison.gained <= outcome.comparison.lost:
        tone, verdict = (
            "warn",
            (
                "Kept: right less wrong verdicts are more with the rubric, but no more pairs changed for the "
                "better than for the worse."
            ),
        )
    elif outcome.rubric:
        tone, verdict = (
            "warn",
            "Kept: the judge did better with the rubric, on too few pairs to be sure.",
        )
    elif outcome.candidate:
        tone, verdict = "bad", "Not kept: nothing shows that the rubric makes the judge better."
    else:
        tone, verdict = "bad", "No rubric came of these pairs."
    return (
        f'<header><p class="over">Rubric report</p><h1>{text(name)}</h1><p class="facts">{shown}</p>'
        f'<p class="sentence">{text(outcome.sentence)}</p><p class="verdict {tone}">{text(verdict)}</p>'
        f"{_because(outcome.comparison)}{_tiles(outcome)}</header>"
    )


def _because(comparison: Comparison | None) -> str:
    if comparison is None or not comparison.with_rubric.pairs:
        return ""
    sure = (
        f"Of {comparison.gained + comparison.lost} pairs that changed, {comparison.gained} changed for the better; chance "
        f"alone is at least as uneven with probability {comparison.p_value:.2g}."
    )
    return f'<p class="because">{text(sure)}</p>'


def _tiles(outcome: Outcome) -> str:
    tiles, comparison = [], outcome.comparison
    if comparison:
        after, before = comparison.with_rubric, comparison.without
        for label, name in (
            ("Accuracy of the decided", "accuracy"),
            ("Decided in both orders", "coverage"),
            ("Orders that disagree", "flip_rate"),
        ):
            one, other = getattr(after, name), getattr(before, name)
            bar = "" if one.value is None else interval(one.value, *one.interval, 0, 1)
            sub = (
                ""
                if one.value is None
                else f"95 % interval {span(*one.interval)}, of {figure(one.total)}"
            )
            big = f'<span class="before">{text(_share(other.value))} &rarr;</span> {text(_share(one.value))}'
            tiles.append(_tile(label, big, sub, bar))
    verified = outcome.endings["kept"] + outcome.endings["refined"]
    tiles.append(
        _tile(
            "Pairs with verified criteria",
            text(f"{verified} of {len(outcome.outcomes)}"),
            f"{outcome.endings['refined']} of them after refinement",
        )
    )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _tile(label: str, big: str, sub: str, below: str = "") -> str:
    return (
        f'<div class="tile"><p class="label">{text(label)}</p><p class="big">{big}</p>'
        f'<p class="sub">{text(sub)}</p>{below}</div>'
    )


def _rubric(outcome: Outcome) -> str:
    rubric: Rubric | None = outcome.candidate
    if rubric is None:
        return ""
    items = "".join(
        f'<li dir="auto">{text(theme.theme)}<ul>{_items(theme.tips)}</ul></li>'
        for theme in rubric.themes
    )
    lead = f"What a judge reads under this rubric. Its content hash is {rubric.content_hash}."
    title = "The rubric" if outcome.rubric else "The rubric that was not kept"
    return section(title, lead, f'<ol class="rubric">{items}</ol>')


def _check(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    rows = [
        _measures("with the rubric", comparison.with_rubric),
        _measures("without", comparison.without),
    ]
    heads = (
        "",
        "right",
        "wrong",
        "undecided",
        "accuracy",
        "95 % interval",
        "first image chosen",
        "orders disagree",
    )
    failed = (
        f" {plural(comparison.failed, 'pair')} failed and is in neither row."
        if comparison.failed
        else ""
    )
    lead = (
        "The same judge on held-out pairs, both orders. A verdict counts where both orders name the same image. The "
        f"rubric is kept if right less wrong verdicts are more with it than without.{failed}"
    )
    return section("Does it help?", lead, table(heads, rows))


def _measures(name: str, measures: Measures) -> str:
    decided = measures.accuracy
    return row(
        name,
        figure(measures.right),
        figure(measures.wrong),
        figure(measures.pairs - decided.total),
        _share(decided.value),
        span(*decided.interval) if decided.total else "",
        _share(measures.first_position_rate.value),
        _share(measures.flip_rate.value),
    )


def _endings(outcomes: Sequence[PairOutcome]) -> str:
    counts = Counter(outcome.ending for outcome in outcomes)
    bars = "".join(
        f'<span class="{TONES[ending]}" style="flex:{counts[ending]}" title="{text(label)}"></span>'
        for ending, label in ENDINGS.items()
        if counts[ending]
    )
    reasons = Counter(outcome.reason for outcome in outcomes if outcome.reason)
    rows = [
        row(label, figure(counts[ending]), percent(counts[ending] / max(1, len(outcomes))))
        for ending, label in ENDINGS.items()
    ]
    why = _items(
        [
            f"{reason} ({times} times)" if times > 1 else reason
            for reason, times in reasons.most_common(20)
        ]
    )
    dropped = (
        f'<p class="try">Why pairs were dropped:</p><ul class="criteria">{why}</ul>' if why else ""
    )
    return section(
        "What became of the pairs",
        "Criteria are written with the label, verified without it in both orders, and "
        "refined with what the verifier said, at most five times.",
        f'<div class="share" aria-hidden="true">{bars}</div>{table(("", "pairs", "share"), rows)}{dropped}',
    )


def _pairs(pairs: Sequence[PreferencePair], outcomes: Sequence[PairOutcome]) -> str:
    ordered = sorted(
        zip(pairs, outcomes, strict=True), key=lambda both: SHOWN_FIRST.index(both[1].ending)
    )
    left = len(ordered) - MOST_CARDS
    more = f" {plural(left, 'more pair')} in pairs.jsonl." if left > 0 else ""
    return section(
        "Pair by pair",
        f"What gave trouble comes first; the image that people liked is framed.{more}",
        f'<div class="pairs">{"".join(_card(*both) for both in ordered[:MOST_CARDS])}</div>',
    )


def _card(pair: PreferencePair, outcome: PairOutcome) -> str:
    sides = [("source", pair.source, "source")] if pair.source else []
    sides += [
        (
            "preferred" if at == pair.preferred else "other",
            path,
            "preferred" if at == pair.preferred else "",
        )
        for at, path in enumerate(pair.images)
    ]
    pictures = "".join(
        f'<figure class="{kind}">{_picture(path, f"{label}: {pair.prompt}")}'
        f"<figcaption>{label}</figcaption></figure>"
        for label, path, kind in sides
    )
    verified, tries = outcome.criteria, [attempt for attempt in outcome.attempts if attempt.fault]
    body = (
        f'<ul class="criteria" dir="auto">{_items(verified)}</ul>'
        if verified
        else (f'<p class="reason">{text(outcome.reason)}</p>')
    )
    folded = "".join(
        f'<div class="try"><p>{text(attempt.fault)}</p><ul class="criteria" dir="auto">'
        f'{_items(attempt.criteria)}</ul><pre tabindex="0">{text(attempt.critique)}</pre></div>'
        for attempt in tries
    )
    if folded:
        body += f"<details><summary>{text(plural(len(tries), 'attempt'))} that did not do</summary>{folded}</details>"
    return (
        f'<article><p class="tag {TONES[outcome.ending]}">{text(ENDINGS[outcome.ending])}</p>'
        f'<h3 class="prompt" dir="auto">{text(pair.prompt)}</h3><div class="row">{pictures}</div>{body}</article>'
    )


def _items(lines: Sequence[str]) -> str:
    return "".join(f"<li>{text(line)}</li>" for line in lines)


def _picture(path: Path, alt: str) -> str:
    try:
        image = open_image(path)
    except (OSError, ValueError, SyntaxError):
        return f'<span class="missing" role="img" aria-label="{escape(alt)}">picture missing</span>'
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    crisp = " crisp" if max(image.size) < THUMBNAIL // 2 else ""
    return (
        f'<img class="picture{crisp}" alt="{escape(alt)}" loading="lazy" '
        f'src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
    )


def _selected(outcome: Outcome) -> str:
    different = len({line for one in outcome.outcomes for line in one.criteria})
    if not outcome.selected:
        return ""
    how = (
        "All of them were put in order."
        if len(outcome.selected) == different
        else f"{len(outcome.selected)} that speak for all of them were chosen and put in order (greedy facility location on the "
        "words that they share; Nemhauser, Wolsey and Fisher 1978)."
    )
    items = f'<ul class="criteria" dir="auto">{_items(outcome.selected)}</ul>'
    return section(
        "The verified criteria",
        f"{figure(different)} in all, each counted once. {how}",
        f"<details><summary>Read them</summary>{items}</details>",
    )


def _cost(outcome: Outcome) -> str:
    rows = [
        row("calls", figure(outcome.calls)),
        row("answered by an earlier start", figure(outcome.remembered)),
        row("tokens", figure(outcome.tokens)),
        row("cost", f"{outcome.cost:.2f}" if outcome.cost else "no price known"),
    ]
    return section("What it cost", "This start of the job alone.", table(("", ""), rows))


def _share(value: float | None) -> str:
    return "\u2013" if value is None else percent(value)
