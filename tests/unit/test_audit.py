"""The page of a verdict store: what it shows, and that nothing in the store gets out of its place."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

from arr_core.judge import main
from arr_core.judging import Judge, Opinion, Pair
from arr_core.judging.pictures import image_hash
from arr_core.judging.store import VerdictStore
from arr_core.reports.verdicts import page
from arr_core.rubrics import Rubric

HOSTILE = "</p><script>alert(1)</script><img src=x onerror=alert(2)> \" ' & $title ]]>"
RUBRIC = Rubric(name=HOSTILE, task="t2i", criteria=("The image is bright.", HOSTILE))


def grey(level: int, size: int = 8) -> Image.Image:
    return Image.new("RGB", (size, size), (level,) * 3)


class Scripted:
    identity = f"scripted {HOSTILE}"

    def __init__(self, *opinions: Opinion):
        self.opinions = list(opinions)

    async def ask(self, questions):
        return [self.opinions.pop(0) for _ in questions]


def store_of(folder: Path, *opinions: Opinion, source: bool = False) -> Path:
    """A run's folder whose store holds a verdict for every two opinions."""
    folder.mkdir(exist_ok=True)
    with Judge(Scripted(*opinions), RUBRIC, store=folder / "verdicts.sqlite") as judge:
        for number in range(len(opinions) // 2):
            judge.submit(
                [
                    Pair(
                        f"prompt {number} {HOSTILE}",
                        grey(9),
                        grey(number + 10),
                        grey(1) if source else None,
                    )
                ]
            ).result()
    return folder


def shown(folder: Path, **settings) -> str:
    with contextlib.closing(VerdictStore(folder / "verdicts.sqlite")) as store:
        return page([store], "run", **settings)


class Elements(HTMLParser):
    """The page's elements, their attributes, and whether every one is closed."""

    def __init__(self, html: str):
        super().__init__()
        self.elements, self.open, self.words = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


DECIDED = (
    Opinion(
        0,
        "brighter",
        (("1", "first: light; second: dark"),),
        confidence=0.9,
        tokens=100,
        cost=0.5,
        latency_s=2.0,
    ),
    Opinion(1, HOSTILE, ((HOSTILE, HOSTILE),)),
)
DISAGREE = (Opinion(0, "here the left"), Opinion(0, "there the right"))
TIE = (Opinion(None, "they are equal"), Opinion(1))
FAILED = (Opinion(0), Opinion(None, failure=HOSTILE, reply=HOSTILE))


def test_every_verdict_is_shown_with_pictures_reasons_and_findings(tmp_path):
    html = shown(store_of(tmp_path, *DECIDED, *DISAGREE, *TIE, *FAILED, source=True))
    elements = Elements(html)
    assert not elements.open
    kinds = [attributes["class"] for tag, attributes in elements.elements if tag == "article"]
    assert kinds == ["pair failed", "pair tie", "pair disagree", "pair decided"]
    assert sum(tag == "img" for tag, _ in elements.elements) == 4 * 3
    text = " ".join(elements.words)
    for words in (
        "prefers A",
        "brighter",
        "here the left",
        "there the right",
        "they are equal",
        "The image is bright.",
        "90\u202f% sure",
        "A, preferred",
        "BASE",
        "orders disagree 1",
        "failed 1",
    ):
        assert words in text, words
    assert re.search(r"<b>A</b> light</dd><dd[^>]*><b>B</b> dark", html)


def test_findings_are_told_of_the_image_and_not_of_its_place(tmp_path):
    said = [
        Opinion(place, findings=(("1", found),))
        for place, found in ((0, "first: light; second: dark"), (1, "first: dim; second: clear"))
    ]
    html = shown(store_of(tmp_path, *said))
    assert re.findall(r"<b>(.)</b> (\w+)", html) == [
        ("A", "light"),
        ("B", "dark"),
        ("A", "clear"),
        ("B", "dim"),
    ]


def test_the_sums_are_those_of_the_whole_trail(tmp_path):
    """Eight replies name an image, five of them the first; three pairs were answered by both, one of them in two minds."""
    html = shown(store_of(tmp_path, *DECIDED, *DISAGREE, *TIE, *FAILED, *DECIDED), last=1)
    words = " ".join(Elements(html).words)
    assert "The newest 1 of 5" in words
    tiles = dict(re.findall(r'<p class="label">([^<]+)</p><p class="big">([^<]+)</p>', html))
    assert tiles == {
        "Decided": "40\u202f%",
        "The orders agree": "67\u202f%",
        "First position": "62\u202f%",
        "Calls": "10",
    }
    assert "200 tokens, 1.00 as priced" in words


def test_nothing_in_the_store_is_markup(tmp_path):
    html = shown(store_of(tmp_path, *DECIDED, *FAILED))
    elements = Elements(html)
    assert {tag for tag, _ in elements.elements}.isdisjoint(
        {"script", "iframe", "object", "link", "base", "form"}
    )
    assert not [
        name for _, attributes in elements.elements for name in attributes if name.startswith("on")
    ]
    assert all(
        attributes["src"].startswith("data:image/webp;base64,")
        for tag, attributes in elements.elements
        if tag == "img"
    )
    policy = next(
        attributes["content"] for _, attributes in elements.elements if "http-equiv" in attributes
    )
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_a_panel_is_shown_judge_by_judge(tmp_path):
    members = (Opinion(0, "sees light"), Opinion(None, failure=HOSTILE), Opinion(1, "sees shadow"))
    html = shown(
        store_of(
            tmp_path, Opinion(0, members=members, quorum=2), Opinion(1, members=members, quorum=2)
        )
    )
    assert re.findall(r"<dt>(judge .*?)</dt>", html) == [
        "judge 1: A",
        "judge 2: failed",
        "judge 3: B",
        "judge 1: B",
        "judge 2: failed",
        "judge 3: A",
    ]
    assert "sees shadow" in html and "<script>" not in html


def test_one_kind_alone(tmp_path):
    html = shown(store_of(tmp_path, *DECIDED, *DISAGREE, *TIE), only="disagree")
    assert re.findall(r'<article class="pair (\w+)"', html) == ["disagree"]
    assert "All 1 (orders disagree)" in html


def test_a_planted_error_is_called_one(tmp_path):
    with Judge(
        Scripted(*DECIDED), RUBRIC, store=tmp_path / "verdicts.sqlite", flip_rate=1.0
    ) as judge:
        assert judge.compare("a cup", grey(1), grey(2)).preferred == "b"
    html = shown(tmp_path)
    assert "prefers B" in html and "an error was planted here" in html
    assert "planted" not in shown(store_of(tmp_path / "honest", *DECIDED, *DISAGREE))


def test_pictures_that_are_broken_or_lost_are_said_to_be(tmp_path):
    folder = store_of(tmp_path, *DECIDED, *DECIDED)
    with sqlite3.connect(folder / "verdicts.sqlite") as file:
        file.execute(
            "UPDATE thumbnails SET webp = ? WHERE hash = ?", (b"no picture", image_hash(grey(9)))
        )
        file.execute("DELETE FROM thumbnails WHERE hash = ?", (image_hash(grey(11)),))
    assert shown(folder).count("not kept") == 3  # the first one is in both pairs


def test_an_empty_store_gives_a_page(tmp_path):
    html = shown(store_of(tmp_path))
    assert not Elements(html).open
    assert "All 0" in html and "0 opinions" in html


# --- the command --------------------------------------------------------------------------------------------------


def test_the_command_writes_the_page_beside_the_store(tmp_path, capsys):
    folder = store_of(tmp_path / "my run", *DECIDED)
    assert main(["show", str(folder)]) == 0
    assert "<h1>my run</h1>" in (folder / "verdicts.html").read_text(encoding="utf-8")
    assert (
        main(
            [
                "show",
                str(folder / "verdicts.sqlite"),
                "--output",
                str(tmp_path / "page.html"),
                "--last",
                "0",
            ]
        )
        == 0
    )
    assert (tmp_path / "page.html").is_file()
    assert capsys.readouterr().out.splitlines()[-1] == f"wrote {tmp_path / 'page.html'}"


def test_the_trails_of_a_runs_processes_make_one_page(tmp_path):
    folder, other = store_of(tmp_path / "run", *DECIDED), store_of(tmp_path / "other", *DECIDED)
    (other / "verdicts.sqlite").rename(folder / "verdicts-1.sqlite")
    with contextlib.closing(sqlite3.connect(folder / "verdicts-1.sqlite")) as file, file:
        file.execute("UPDATE verdicts SET time = '2001-01-01T00:00:00', prompt = 'the older'")
    assert main(["show", str(folder)]) == 0
    html = (folder / "verdicts.html").read_text(encoding="utf-8")
    assert f"All {len(DECIDED)}" in html and f"{2 * len(DECIDED)} opinions" in html
    assert html.index("prompt 0") < html.index("the older")
    assert "verdicts.sqlite, verdicts-1.sqlite" in html


def test_the_command_names_what_it_did_not_find(tmp_path, capsys):
    assert main(["show", str(tmp_path)]) == 2
    (tmp_path / "verdicts.sqlite").write_text("no database" * 200)
    assert main(["show", str(tmp_path)]) == 2
    none, broken = capsys.readouterr().err.splitlines()
    assert none == (
        f"error: {tmp_path / 'verdicts.sqlite'}: expected the folder of a run or a verdict store, got no such "
        "file; check the path"
    )
    assert broken.startswith(
        f"error: {tmp_path / 'verdicts.sqlite'}: expected a verdict store that can be written; "
    )
