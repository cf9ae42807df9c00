"""The page of a verdict store: what it shows, and that nothing in the store gets out of its place."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path

import pytest
from doubles.html_page import Page
from PIL import Image

from arr_core.judge import main
from arr_core.judging import Judge, Opinion
from arr_core.judging.client import GroupClient
from arr_core.judging.pictures import image_hash
from arr_core.judging.store import VerdictStore
from arr_core.reports.verdicts import write_report
from arr_core.rubrics import Rubric

HOSTILE = "</p><script>alert(1)</script><img src=x onerror=alert(2)> \" ' & {{ title }} ]]>"
RUBRIC = Rubric(name=HOSTILE, task="t2i", criteria=("The image is bright.", HOSTILE))
LIGHT = (("1", "first: light; second: dark"),)
DECIDED = (
    Opinion(0, "brighter", LIGHT, confidence=0.9, tokens=100, cost=0.5, latency_s=2.0),
    Opinion(1, HOSTILE, ((HOSTILE, HOSTILE),)),
)
DISAGREE = (Opinion(0, "here the left"), Opinion(0, "there the right"))
TIE = (Opinion(None, "they are equal"), Opinion(1))
FAILED = (Opinion(0), Opinion(None, failure=HOSTILE, reply=HOSTILE))


def grey(level: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (level,) * 3)


class Scripted(GroupClient):
    identity = f"scripted {HOSTILE}"

    def __init__(self, *opinions: Opinion):
        self.opinions = list(opinions)

    async def answer_all(self, questions):
        return [self.opinions.pop(0) for _ in questions]


def store_of(folder: Path, *opinions: Opinion, source: bool = False) -> Path:
    """A run's folder whose store holds a verdict for every two opinions."""
    folder.mkdir(exist_ok=True)
    base = grey(1) if source else None
    with Judge(Scripted(*opinions), RUBRIC, store=folder / "verdicts.sqlite") as judge:
        for number in range(len(opinions) // 2):
            judge.compare(f"prompt {number} {HOSTILE}", grey(9), grey(number + 10), base)
    return folder


def report(folder: Path, **settings) -> Page:
    with contextlib.closing(VerdictStore(folder / "verdicts.sqlite")) as store:
        write_report([store], folder / "page.html", "run", **settings)
    return Page(folder / "page.html")


def missing(page: Page, words: str) -> list[str]:
    return [word for word in words.split(" | ") if word not in page.text]


def kinds(page: Page) -> list[str]:
    return [attributes["class"] for attributes in page.all("article")]


def test_every_verdict_is_shown_and_nothing_in_the_store_is_markup(tmp_path):
    page = report(store_of(tmp_path, *DECIDED, *DISAGREE, *TIE, *FAILED, source=True))
    page.assert_inert()
    assert kinds(page) == ["pair failed", "pair tie", "pair disagree", "pair decided"]
    assert len(page.all("img")) == 4 * 3
    said = "prefers A | brighter | here the left | there the right | they are equal | 90 % sure"
    shown = "The image is bright. | A, preferred | BASE | orders disagree 1 | failed 1"
    assert missing(page, f"{said} | {shown}") == []


def test_findings_are_told_of_the_image_and_not_of_its_place(tmp_path):
    other = Opinion(1, findings=(("1", "first: dim; second: clear"),))
    page = report(store_of(tmp_path, Opinion(0, findings=LIGHT), other))
    told = re.findall(r"<b>(.)</b> (\w+)", page.html)
    assert told == [("A", "light"), ("B", "dark"), ("A", "clear"), ("B", "dim")]


def test_the_totals_are_over_all_verdicts(tmp_path):
    """Eight replies name an image, five of them the first; three pairs were answered by both, one of them in two minds."""
    page = report(store_of(tmp_path, *DECIDED, *DISAGREE, *TIE, *FAILED, *DECIDED), last=1)
    shares = "Decided 40 % | The orders agree 67 % | First position 62 %"
    costs = "Calls 10 | 200 tokens, 1.00 as priced"
    assert missing(page, f"The newest 1 of 5 | {shares} | {costs}") == []


def test_a_panel_is_shown_judge_by_judge(tmp_path):
    members = (Opinion(0, "sees light"), Opinion(None, failure=HOSTILE), Opinion(1, "sees shadow"))
    panel = Opinion(0, members=members, quorum=2), Opinion(1, members=members, quorum=2)
    page = report(store_of(tmp_path, *panel))
    told = [first + second for first, second in re.findall(r"judge (\d): (\w+)", page.text)]
    assert told == ["1A", "2failed", "3B", "1B", "2failed", "3A"] and "sees shadow" in page.text


def test_judges_of_the_same_pairs_are_compared_and_so_are_a_panels_members(tmp_path):
    """Of three pairs the members decide all alike but one; the panel goes with its first member."""
    said = [(0, 0), (0, 0), (0, 1)]
    opinions = []
    for swapped in [(first ^ order, other ^ order) for first, other in said for order in (0, 1)]:
        members = tuple(Opinion(place, reply=HOSTILE) for place in swapped)
        opinions.append(Opinion(swapped[0], members=members, quorum=1))
    page = report(store_of(tmp_path, *opinions))
    page.assert_inert()
    rows = re.findall(r"(?:member (\d), )?rubric \S.*? (?:member (\d), ).*? 3 (\d+).%", page.text)
    assert [share for *_, share in rows] == ["100", "67", "67"]


def test_one_kind_alone(tmp_path):
    page = report(store_of(tmp_path, *DECIDED, *DISAGREE, *TIE), only="disagree")
    assert kinds(page) == ["pair disagree"] and "All 1 (orders disagree)" in page.text


def test_thumbnails_that_are_broken_or_lost_are_said_to_be(tmp_path):
    folder = store_of(tmp_path, *DECIDED, *DECIDED)
    with contextlib.closing(sqlite3.connect(folder / "verdicts.sqlite")) as file, file:
        broken = (b"no image", image_hash(grey(9)))
        file.execute("UPDATE thumbnails SET webp = ? WHERE hash = ?", broken)
        file.execute("DELETE FROM thumbnails WHERE hash = ?", (image_hash(grey(11)),))
    assert report(folder).html.count("not kept") == 3  # the first one is in both pairs


def test_an_empty_store_gives_a_page(tmp_path):
    assert missing(report(store_of(tmp_path)), "All 0 | 0 opinions") == []


# --- the command --------------------------------------------------------------------------------------------------


def test_the_command_makes_one_page_of_the_stores_of_a_runs_processes(tmp_path, capsys):
    folder, other = store_of(tmp_path / "my run", *DECIDED), store_of(tmp_path / "other", *DECIDED)
    (other / "verdicts.sqlite").rename(folder / "verdicts-1.sqlite")
    with contextlib.closing(sqlite3.connect(folder / "verdicts-1.sqlite")) as file, file:
        file.execute("UPDATE verdicts SET time = '2001-01-01T00:00:00', prompt = 'the older'")
    assert main(["show", str(folder)]) == 0
    page = Page(folder / "verdicts.html")
    assert "<h1>my run</h1>" in page.html
    assert missing(page, "All 2 | 4 opinions | verdicts.sqlite, verdicts-1.sqlite") == []
    assert page.text.index("prompt 0") < page.text.index("the older")
    output, store = tmp_path / "page.html", folder / "verdicts.sqlite"
    assert main(["show", str(store), "--output", str(output), "--last", "0"]) == 0
    assert "All 1" in Page(output).text
    assert capsys.readouterr().out.endswith(f"wrote {output}\n")


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "expected the folder of a run or a verdict store"),
        ("no database" * 200, "expected a verdict store"),
    ],
)
def test_the_command_says_what_it_expected(tmp_path, capsys, content, message):
    store = tmp_path / "verdicts.sqlite"
    if content:
        store.write_text(content)
    assert main(["show", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {store}: {message}")
