"""The verdicts of a run as one page: every pair with its images, and what the judge said in each order."""

from __future__ import annotations

import heapq
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from operator import attrgetter
from pathlib import Path

from PIL import Image

from ..common.files import write_text
from ..common.proportions import Proportion
from ..judging.store import Entry, VerdictStore
from ..judging.verdict import Opinion, combine
from .html import render
from .images import CRISP_BELOW, EmbeddedImage, data_uri

OUTCOMES = {
    "decided": "decided",
    "disagree": "orders disagree",
    "tie": "tie or too unsure",
    "failed": "failed",
}
MOST_CHARACTERS = 4000  # of a raw reply that are shown

_SIDES = re.compile(r"first: (.*?); second: (.*)", re.DOTALL)


Rater = tuple[str, int, str]  # a judge, the number of a member of its panel or 0, and the rubric


@dataclass
class Agreements:
    """What judges said of the same pairs, rubric by rubric, and what people did."""

    labels: Mapping[bytes, bytes]
    choices: dict[Rater, dict[bytes, bytes | None]] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        """Take an entry; of several verdicts of a judge on a pair, the first one is taken."""
        shown = entry.image_a, entry.image_b
        said = {0: entry.winner}
        members = zip(*(opinion.members for opinion in entry.opinions), strict=False)
        for number, orders in enumerate(members, 1):
            winner = combine(orders).winner
            said[number] = None if winner is None else shown[winner]
        for number, choice in said.items():
            choices = self.choices.setdefault((entry.judge, number, entry.rubric), {})
            choices.setdefault(entry.pair, choice)

    def preferred(self, entry: Entry) -> str:
        """The image that people prefer, "A" or "B"; empty where no label is known."""
        return {entry.image_a: "A", entry.image_b: "B"}.get(self.labels.get(entry.pair, b""), "")

    def right(self, entry: Entry) -> str:
        """Whether a decided verdict is "right" or "wrong" by the label; empty where either is missing."""
        if entry.winner is None or entry.pair not in self.labels:
            return ""
        return "right" if entry.winner == self.labels[entry.pair] else "wrong"

    def with_people(self) -> list[tuple[Rater, int, Proportion]]:
        """Of each judge under each rubric: labelled pairs, and of those that it decides, how many as people did."""
        rows = []
        for rater, choices in self.choices.items():
            labelled = [choice for pair, choice in choices.items() if pair in self.labels]
            if labelled:
                rows.append((rater, len(labelled), _agreed(choices, self.labels)))
        return rows

    def between_judges(self) -> list[tuple[Rater, Rater, Proportion]]:
        """Of each two judges under the same rubric: the pairs that both decide, and how many alike."""
        rows = [
            (one, other, _agreed(self.choices[one], self.choices[other]))
            for one, other in combinations(self.choices, 2)
            if one[-1] == other[-1]
        ]
        return [row for row in rows if row[2].total]


def _agreed(
    choices: Mapping[bytes, bytes | None], others: Mapping[bytes, bytes | None]
) -> Proportion:
    """Of the pairs that both decide, those that they decide alike."""
    both = [
        choice == others[pair]
        for pair, choice in choices.items()
        if choice is not None and others.get(pair) is not None
    ]
    return Proportion(sum(both), len(both))


@dataclass
class Totals:
    """Sums over verdicts."""

    outcomes: Counter[str] = field(default_factory=Counter)
    judges: Counter[str] = field(default_factory=Counter)
    agreement: Counter[bool] = field(default_factory=Counter)  # of two replies that name an image
    places: Counter[int] = field(default_factory=Counter)  # of the images that are named
    calls: int = 0
    tokens: int = 0
    cost: float = 0.0
    latency_s: float = 0.0

    def add(self, entry: Entry) -> None:
        self.outcomes[entry.outcome] += 1
        self.judges[entry.judge] += 1
        named = [opinion.preferred for opinion in entry.opinions if opinion.preferred is not None]
        self.places.update(named)
        if len(named) == 2:
            self.agreement[named[0] != named[1]] += 1
        for opinion in entry.opinions:
            self.calls += opinion.calls
            self.tokens += opinion.tokens
            self.cost += opinion.cost
            self.latency_s += opinion.latency_s


def write_report(
    stores: Sequence[VerdictStore],
    path: str | Path,
    name: str,
    *,
    last: int | None = None,
    only: str | None = None,
) -> None:
    """Write the page of the stores that a run's processes kept.

    last: how many verdicts are shown, the newest; None shows all. only: an outcome. The totals are over all verdicts.
    Nothing in a store is trusted: text is escaped.
    """
    totals, shown = Totals(), []
    labels = {pair: image for store in stores for pair, image in store.labels().items()}
    agreements = Agreements(labels)
    entries = [store.entries() for store in stores]
    for entry in heapq.merge(*entries, key=attrgetter("time"), reverse=True):
        totals.add(entry)
        agreements.add(entry)
        if only in (None, entry.outcome) and (last is None or len(shown) < last):
            shown.append(entry)
    wanted = {key for entry in shown for key in (entry.image_a, entry.image_b, entry.source) if key}
    thumbnails = {key: webp for store in stores for key, webp in store.thumbnails(wanted).items()}
    rubrics = {key: rubric for store in stores for key, rubric in store.rubrics().items()}
    used = [key for key in dict.fromkeys(entry.rubric for entry in shown) if key in rubrics]
    places = {key: f"rubric-{place}" for place, key in enumerate(used) if len(used) > 1}
    kinds = Counter(entry.outcome for entry in shown)
    kinds.update(map(agreements.right, shown))
    kinds.update(places.get(entry.rubric) for entry in shown)
    named = OUTCOMES | {"right": "right", "wrong": "wrong"}
    named |= {place: rubrics[key][0] for key, place in places.items()}
    filters = {kind: (label, kinds[kind]) for kind, label in named.items() if kinds[kind]}
    page = render(
        "verdicts.html.jinja",
        agreements=agreements,
        filters=filters,
        places=places,
        name=name,
        labels=OUTCOMES,
        totals=totals,
        only=only,
        shown=shown,
        decided=_share_of(totals.outcomes, "decided"),
        agreement=_share_of(totals.agreement, True),
        first_position=_share_of(totals.places, 0),
        thumbnail=lambda key: _thumbnail(thumbnails.get(key, b"")),
        findings=lambda opinion, order, rubric: _findings(
            opinion, order, rubrics.get(rubric, ("", ""))[1]
        ),
        rubrics=rubrics,
        used=used,
        most_characters=MOST_CHARACTERS,
        files=[Path(store.path).name for store in stores],
        opinions=sum(map(len, stores)),
    )
    write_text(path, page)


def _share_of(counts: Counter, key: object) -> Proportion:
    """How many of all that was counted are ``key``."""
    return Proportion(counts[key], counts.total())


def _thumbnail(webp: bytes) -> EmbeddedImage | None:
    """The thumbnail as the store has it; None for what is no WebP."""
    try:
        with Image.open(io.BytesIO(webp), formats=("WEBP",)) as image:
            return EmbeddedImage(
                data_uri(webp, "webp"), *image.size, crisp=max(image.size) < CRISP_BELOW
            )
    except (OSError, Image.DecompressionBombError):
        return None


def _findings(
    opinion: Opinion, order: str, criteria: str
) -> list[tuple[str, list[tuple[str, str]]]]:
    """(criterion, [(A or B, what was found)]). The side is empty where the judge did not tell the images apart.

    order: "AB" or "BA", which of the images was first and second. criteria: the rubric's numbered list.
    """
    lines = dict(re.findall(r"^(\d+)\. (.*)$", criteria, re.MULTILINE))
    findings = []
    for criterion, found, _ in opinion.findings:
        sides = _SIDES.fullmatch(found)
        told = sorted(zip(order, sides.groups(), strict=True)) if sides else [("", found)]
        findings.append((lines.get(criterion.strip(), criterion), told))
    return findings
