"""The trail of a verdict store as one self-contained page: every pair with its pictures, and what was said in each order."""

from __future__ import annotations

import base64
import heapq
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from PIL import Image

from ..common.proportions import Proportion
from ..judging.store import EXACT, Entry, VerdictStore
from ..judging.verdict import Opinion
from .charts import interval
from .page import fill
from .words import duration, figure, percent, plural, section, span, text

BODY = Path(__file__).parent / "templates" / "verdicts.html"
OUTCOMES = {
    "decided": "decided",
    "disagree": "orders disagree",
    "tie": "tie or too unsure",
    "failed": "failed",
}
LONGEST = 4000  # characters of a raw reply that are shown

_SIDES = re.compile(r"first: (.*?); second: (.*)", re.DOTALL)


@dataclass
class Sums:
    """What the whole trail adds up to."""

    outcomes: Counter
    judges: Counter
    named: int = 0
    first: int = 0
    both: int = 0
    agree: int = 0
    calls: int = 0
    tokens: int = 0
    cost: float = 0.0
    latency_s: float = 0.0

    def add(self, entry: Entry) -> None:
        """Count one more verdict."""
        self.outcomes[entry.outcome] += 1
        self.judges[entry.judge] += 1
        places = [opinion.preferred for opinion in entry.opinions]
        self.named += sum(place is not None for place in places)
        self.first += places.count(0)
        if len(places) == 2 and None not in places:
            self.both += 1
            self.agree += places[0] != places[1]
        for opinion in entry.opinions:
            self.calls += opinion.calls
            self.tokens += opinion.tokens
            self.cost += opinion.cost
            self.latency_s += opinion.latency_s


def page(
    stores: Sequence[VerdictStore], name: str, *, last: int | None = None, only: str | None = None
) -> str:
    """The page of one trail, or of those that a run's processes kept.

    ``last`` is how many verdicts are shown, the newest; ``only`` an outcome; the sums are over all.
    Nothing in the store is trusted: all text is escaped, and the page may load nothing and run nothing.
    """
    sums, shown = Sums(Counter(), Counter()), []
    for entry in heapq.merge(
        *(store.entries() for store in stores), key=lambda entry: entry.time, reverse=True
    ):
        sums.add(entry)
        if only in (None, entry.outcome) and (last is None or len(shown) < last):
            shown.append(entry)
    wanted = {key for entry in shown for key in (entry.image_a, entry.image_b, entry.source) if key}
    pictures = {key: webp for store in stores for key, webp in store.thumbnails(wanted).items()}
    rubrics = {key: rubric for store in stores for key, rubric in store.rubrics().items()}
    of = sums.outcomes[only] if only else sums.outcomes.total()
    lead = (
        f"The newest {figure(len(shown))} of {figure(of)}"
        if len(shown) < of
        else f"All {figure(of)}"
    )
    lead += f" ({OUTCOMES[only]})" if only else ""
    body = Template(BODY.read_text(encoding="utf-8")).substitute(
        headline=_headline(name, shown, sums),
        filters=_filters(shown),
        rubrics=_rubrics(rubrics, shown),
        lead=f"{lead}, the newest first. What the judge preferred is framed.",
        pairs="\n".join(_pair(entry, pictures, rubrics) for entry in shown),
        foot=f"Made from {text(', '.join(Path(store.path).name for store in stores))}, "
        f"{plural(sum(map(len, stores)), 'opinion')}.",
    )
    return fill(f"{text(name)} &middot; verdicts", body)


def _headline(name: str, shown: Sequence[Entry], sums: Sums) -> str:
    whole = sums.outcomes.total()
    facts = "".join(
        f"<span>{text(judge)}, {text(plural(count, 'verdict'))}</span>"
        for judge, count in sums.judges.most_common()
    )
    bar = "".join(
        f'<span class="{outcome}" style="flex: {sums.outcomes[outcome]}" title="{text(words)}"></span>'
        for outcome, words in OUTCOMES.items()
        if sums.outcomes[outcome]
    )
    counts = ", ".join(
        f"{figure(sums.outcomes[outcome])} {words}"
        for outcome, words in OUTCOMES.items()
        if sums.outcomes[outcome]
    )
    decided, agree = Proportion(sums.outcomes["decided"], whole), Proportion(sums.agree, sums.both)
    first = Proportion(sums.first, sums.named)
    money = f", {sums.cost:,.2f} as priced" if sums.cost else ""
    tiles = [
        _tile("Decided", percent(decided.value) if whole else "\u2013", counts or "no verdict yet"),
        *(
            [
                _tile(
                    "The orders agree",
                    percent(agree.value),
                    f"of {plural(agree.total, 'pair')} whose two replies name an image",
                )
            ]
            if agree.total
            else []
        ),
        _tile(
            "First position",
            percent(first.value) if first.total else "\u2013",
            f"of {plural(first.total, 'answer')} name the image shown first; "
            f"95 % interval {span(*first.interval)}; without bias 50 %",
            _bar(first),
        ),
        _tile(
            "Calls",
            figure(sums.calls),
            f"{plural(sums.tokens, 'token')}{money}; "
            f"{duration(sums.latency_s / sums.calls) if sums.calls else 'no time'} each",
        ),
    ]
    period = (
        " to ".join(entry.time[:16].replace("T", " ") for entry in (shown[-1], shown[0])) + " UTC"
        if shown
        else ""
    )
    return (
        f'<header><p class="over">Verdicts</p><h1>{text(name)}</h1><p class="facts"><span>{text(period)}</span>{facts}</p>'
        f'<div class="shares" role="img" aria-label="{text(counts)}">{bar}</div>'
        f'<div class="tiles">{"".join(tiles)}</div></header>'
    )


def _bar(share: Proportion) -> str:
    return interval(share.value, *share.interval, 0, 1, half=True) if share.total else ""


def _tile(label: str, big: str, sub: str, below: str = "") -> str:
    return (
        f'<div class="tile"><p class="label">{text(label)}</p><p class="big">{text(big)}</p>'
        f'<p class="sub">{text(sub)}</p>{below}</div>'
    )


def _filters(shown: Sequence[Entry]) -> str:
    """Radio buttons that hide what is not asked for; style alone does it, since the page may run nothing."""
    counts = Counter(entry.outcome for entry in shown)
    kinds = [
        ("all", "all", len(shown)),
        *((kind, words, counts[kind]) for kind, words in OUTCOMES.items() if counts[kind]),
    ]
    boxes = "".join(
        f'<input class="pick" type="radio" name="show" id="show-{kind}"{" checked" if kind == "all" else ""}>'
        for kind, _, _ in kinds
    )
    labels = "".join(
        f'<label for="show-{kind}">{text(words)} {figure(count)}</label>'
        for kind, words, count in kinds
    )
    return f'{boxes}<div class="filters">{labels}</div>'


def _pair(
    entry: Entry, pictures: Mapping[bytes, bytes], rubrics: Mapping[str, tuple[str, str]]
) -> str:
    name, criteria = rubrics.get(entry.rubric, (entry.rubric, ""))
    verdict = f"prefers {entry.preferred.upper()}" if entry.preferred else OUTCOMES[entry.outcome]
    planted = _planted(entry)
    meta = [
        f'<span class="badge {entry.outcome}">{text(verdict)}</span>',
        *(
            f"<span>{text(fact)}</span>"
            for fact in (entry.time[:19].replace("T", " "), f"rubric {name}", planted)
            if fact
        ),
    ]
    sides = [("source", "BASE", entry.source), ("a", "A", entry.image_a), ("b", "B", entry.image_b)]
    row = "".join(
        _picture(label, pictures.get(key), entry.preferred == side)
        for side, label, key in sides
        if key
    )
    orders = "".join(
        _order(opinion, bool(at), criteria, entry.outcome != "decided")
        for at, opinion in enumerate(entry.opinions)
    )
    return (
        f'<article class="pair {entry.outcome}"><header><p class="meta">{"".join(meta)}</p>'
        f'<h3 class="prompt" dir="auto">{text(entry.prompt)}</h3></header>'
        f'<div class="pictures"><div class="row">{row}</div></div><div class="orders">{orders}</div></article>'
    )


def _planted(entry: Entry) -> str:
    """A verdict that contradicts both of its replies was turned around by a benchmark's planted error."""
    if any(
        opinion.members for opinion in entry.opinions
    ):  # a panel's judges are counted over both orders
        return ""
    sides = {
        "ab"[opinion.preferred ^ swapped]
        for swapped, opinion in enumerate(entry.opinions)
        if opinion.preferred is not None
    }
    return (
        "an error was planted here"
        if entry.preferred and sides and entry.preferred not in sides
        else ""
    )


def _picture(label: str, webp: bytes | None, preferred: bool) -> str:
    caption = f"{label}, preferred" if preferred else label
    side = _side(webp)
    shown = '<span class="missing">not kept</span>'
    if side:
        crisp = " crisp" if side <= EXACT else ""
        shown = (
            f'<img class="picture{crisp}" alt="{text(label)}" loading="lazy" '
            f'src="data:image/webp;base64,{base64.b64encode(webp).decode("ascii")}">'
        )
    return f'<figure class="{"preferred" if preferred else ""}">{shown}<figcaption>{text(caption)}</figcaption></figure>'


def _side(webp: bytes | None) -> int:
    """The longer side of a thumbnail in pixels, or 0 for what is none."""
    try:
        with Image.open(io.BytesIO(webp or b""), formats=("WEBP",)) as image:
            return max(image.size)
    except (OSError, Image.DecompressionBombError):
        return 0


def _order(opinion: Opinion, swapped: bool, criteria: str, opened: bool) -> str:
    first, second = "BA" if swapped else "AB"
    said = _said(opinion, first, second)
    sure = f", {percent(opinion.confidence)} sure" if opinion.confidence is not None else ""
    failure = (
        f'<p class="said failure" dir="auto">{text(opinion.failure)}</p>' if opinion.failure else ""
    )
    reason = f'<p class="said" dir="auto">{text(opinion.reason)}</p>' if opinion.reason else ""
    return (
        f'<div class="order"><h4>{text(said)}{text(sure)} <span>&middot; {first} shown first</span></h4>{failure}{reason}'
        f"{_members(opinion, first, second, opened)}{_findings(opinion, first, second, criteria, opened)}"
        f"{_reply(opinion)}</div>"
    )


def _said(opinion: Opinion, first: str, second: str) -> str:
    return (
        "failed"
        if opinion.failure
        else "a tie"
        if opinion.preferred is None
        else (first, second)[opinion.preferred]
    )


def _members(opinion: Opinion, first: str, second: str, opened: bool) -> str:
    """What the judges of a panel said, one by one."""
    items = "".join(
        f"<div><dt>judge {number}: {_said(member, first, second)}</dt>"
        f'<dd dir="auto">{text(member.failure or member.reason)}</dd></div>'
        for number, member in enumerate(opinion.members, 1)
    )
    return (
        (
            f"<details{' open' if opened else ''}><summary>{plural(len(opinion.members), 'judge')}</summary>"
            f'<dl class="findings">{items}</dl></details>'
        )
        if items
        else ""
    )


def _findings(opinion: Opinion, first: str, second: str, criteria: str, opened: bool) -> str:
    lines = dict(re.findall(r"^(\d+)\. (.*)$", criteria, re.MULTILINE))
    items = []
    for criterion, found in opinion.findings:
        sides = _SIDES.fullmatch(found)
        cells = (
            sorted(zip((first, second), sides.groups(), strict=True)) if sides else [("", found)]
        )
        told = "".join(
            f'<dd dir="auto">{f"<b>{side}</b> " if side else ""}{text(words)}</dd>'
            for side, words in cells
        )
        items.append(
            f'<div><dt dir="auto">{text(lines.get(criterion.strip(), criterion))}</dt>{told}</div>'
        )
    return (
        (
            f"<details{' open' if opened else ''}><summary>{plural(len(items), 'finding')}</summary>"
            f'<dl class="findings">{"".join(items)}</dl></details>'
        )
        if items
        else ""
    )


def _reply(opinion: Opinion) -> str:
    """The raw reply, where the reply is what went wrong."""
    if not (opinion.failure and opinion.reply):
        return ""
    more = "\n..." if len(opinion.reply) > LONGEST else ""
    return f'<details><summary>The reply</summary><pre tabindex="0">{text(opinion.reply[:LONGEST] + more)}</pre></details>'


def _rubrics(rubrics: Mapping[str, tuple[str, str]], shown: Iterable[Entry]) -> str:
    used = dict.fromkeys(entry.rubric for entry in shown)
    body = "".join(
        f"<details><summary>{text(rubrics[key][0])} ({text(key)})</summary>"
        f'<pre tabindex="0" dir="auto">{text(rubrics[key][1])}</pre></details>'
        for key in used
        if key in rubrics
    )
    return section("Rubrics", "What the judge was asked to look at.", body) if body else ""
