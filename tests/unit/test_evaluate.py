"""Measuring a judge: hand-counted cases, and scripted judges whose accuracy and bias are known."""

from __future__ import annotations

import json
import os
import random

import pytest
from doubles.client import Scripted
from doubles.html_page import Page
from PIL import Image

from arr_core.common.proportions import Proportion
from arr_core.data import PreferencePair
from arr_core.judge import main
from arr_core.judging import Judge, JudgeError, Opinion, Verdict
from arr_core.judging.metrics import evaluate, measure, tag_groups
from arr_core.judging.verdict import Finding, combine
from arr_core.rubrics import NO_RUBRIC, Rubric

RUBRIC = Rubric(name="light", task="t2i", criteria=("The image is bright.",))


def pair(preferred: int, **tags) -> PreferencePair:
    return PreferencePair("a cup", ("a.png", "b.png"), preferred, tags=tags)


def said(*places: int | None, **fields) -> Verdict:
    """The verdict of these places, in order a, b and then b, a."""
    return combine(tuple(Opinion(place, **fields) for place in places))


# --- by hand ------------------------------------------------------------------------------------------------------


def test_every_measure_of_a_few_verdicts_counted_by_hand():
    """Six pairs, a is the better one in the first three.

    | pair | better | order a,b | order b,a | decided | correct | flip |
    |---|---|---|---|---|---|---|
    | 0 | a | first  | second | a | yes | no  |
    | 1 | a | first  | first  | - |     | yes |
    | 2 | a | second | first  | b | no  | no  |
    | 3 | b | second | first  | b | yes | no  |
    | 4 | b | first  | tie    | - |     |     |
    | 5 | b | failed | first  | - |     |     |

    Ten replies name an image, seven of them the first. Better shown first: 0ab first, 1ab first, 2ab second, 3ba first,
    5ba first: 4 of 5. Better shown second: 0ba second, 1ba first, 2ba first, 3ab second, 4ab first: 3 of 5.
    """
    pairs = [pair(0), pair(0), pair(0), pair(1), pair(1), pair(1)]
    failed = combine((Opinion(None, failure="HTTP 500"), Opinion(0)))
    found = measure(pairs, [said(0, 1), said(0, 0), said(1, 0), said(1, 0), said(0, None), failed])
    assert (found.accuracy, found.coverage) == (Proportion(2, 3), Proportion(3, 6))
    assert (found.right, found.wrong) == (2, 1)
    assert found.flip_rate == Proportion(1, 4)
    assert found.first_position_rate == Proportion(7, 10)
    assert found.single_accuracy == Proportion(4 + 2, 10)
    assert found.symmetric_bias == pytest.approx((4 / 5 + 3 / 5) / 2 - 1 / 2)
    assert (found.failures, found.commonest_failure) == (1, "HTTP 500")


def test_cost_counts_new_calls_and_what_the_pairs_would_cost():
    opinion = Opinion(0, tokens=100, cost=0.5, latency_s=1.0)
    new = combine((opinion, Opinion(1, tokens=100, cost=0.5, latency_s=3.0)))
    old = combine((Opinion(0, tokens=100, cost=0.5, latency_s=2.0, cached=True),) * 2)
    found = measure([pair(0), pair(0)], [new, old])
    assert (found.calls, found.tokens, found.cost) == (2, 200, 1.0)
    assert (found.tokens_per_pair, found.cost_per_pair) == (200, 1.0)
    assert found.latency_s == (2.0, 3.0)


def test_one_order_has_no_flips():
    found = measure([pair(0), pair(1)], [said(0), said(0)])
    assert (found.accuracy, found.flip_rate) == (Proportion(1, 2), Proportion(0, 0))
    assert found.symmetric_bias == 0.5


def test_nothing_decided_has_no_accuracy():
    found = measure([pair(0)], [said(None, None)])
    assert (found.accuracy, found.symmetric_bias, found.latency_s) == (Proportion(0, 0), None, None)
    assert json.loads(json.dumps(found.summary()))["accuracy"]["value"] is None


def test_accuracy_and_coverage_by_tag():
    pairs = [pair(0, kind="count"), pair(0, kind="count"), pair(0, kind="colour")]
    found = measure(pairs, [said(0, 1), said(0, 0), said(1, 0)])
    assert found.by_tag == {
        "kind=colour": (Proportion(0, 1), Proportion(1, 1)),
        "kind=count": (Proportion(1, 1), Proportion(1, 2)),
    }


def test_tags_are_what_several_pairs_share():
    pairs = [
        pair(
            0,
            id=f"{n}",
            tags=["count", "count"] if n % 2 else ["colour"],
            hard=n < 5,
            note="x" * 50,
            at={"x": 1},
            score=0.1,
        )
        for n in range(30)
    ]
    assert {name: len(members) for name, members in tag_groups(pairs).items()} == {
        "colour": 15,
        "count": 15,
        "hard=True": 5,
        "hard=False": 25,
    }


def test_each_criterion_has_its_own_accuracy():
    """Of two pairs whose better one is a: criterion 1 says so once and once is of two minds, 2 says b once. 9 is noise."""

    def found(*places, noise=False):
        findings = tuple(Finding(str(at), "", place) for at, place in enumerate(places, 1))
        return Opinion(0, findings=findings + (Finding("9", "", 0),) * noise)

    verdicts = [
        combine((found(0, 1, noise=True), found(1, 0))),
        combine((found(0, 1), found(0, None))),
    ]
    assert measure([pair(0)] * 2, verdicts).by_criterion == {
        "1": (Proportion(1, 1), Proportion(1, 2)),
        "2": (Proportion(0, 1), Proportion(1, 2)),
    }


def test_a_threshold_is_advised_by_right_less_wrong_verdicts():
    """Log-odds of 0.3 (57 % sure) are wrong twice, of 1 (73 %) right once and of 3 (95 %) twice, below any threshold."""

    def sure(log_odds):
        opinions = [Opinion(None, log_odds=sign * log_odds, threshold=0.99) for sign in (1, -1)]
        return combine(tuple(opinions))

    found = measure([pair(0)] * 5, [sure(log_odds) for log_odds in (-0.3, -0.3, 1.0, 3.0, 3.0)])
    assert found.coverage == Proportion(0, 5) and found.best_threshold == "0.60"
    assert found.by_threshold == {
        "0.50": (Proportion(3, 5), Proportion(5, 5)),
        "0.60": (Proportion(3, 3), Proportion(3, 5)),
        "0.75": (Proportion(2, 2), Proportion(2, 5)),
    }
    assert measure([pair(0)], [said(0, 1)]).best_threshold is None


# --- scripted judges over pictures --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """100 pairs of pictures; the brighter one is the better one, at either place."""
    folder, pairs = tmp_path_factory.mktemp("pictures"), []
    for level in (100, 200):
        Image.new("RGB", (16, 16), (level,) * 3).save(folder / f"{level}.png")
    for number in range(100):
        bright_at = number % 2
        files = [folder / "100.png", folder / "100.png"]
        files[bright_at] = folder / "200.png"
        tags = {"place": "ab"[bright_at]}
        pairs.append(PreferencePair(f"prompt {number}", tuple(files), bright_at, tags=tags))
    return pairs


def brighter(question) -> int:
    return int(question.second.getpixel((0, 0)) > question.first.getpixel((0, 0)))


def measured(pictures, choose, **options):
    with Judge(Scripted(choose), RUBRIC) as judge:
        return evaluate(judge, pictures, **options)


def test_a_perfect_judge(pictures):
    reports = []
    found = measured(pictures, brighter, report_progress=lambda *report: reports.append(report))
    assert (found.accuracy, found.coverage) == (Proportion(100, 100), Proportion(100, 100))
    assert (found.flip_rate, found.first_position_rate) == (
        Proportion(0, 100),
        Proportion(100, 200),
    )
    assert (found.symmetric_bias, found.calls) == (0.0, 200)
    assert (reports[0], reports[-1]) == (("light", 0, 100), ("light", 100, 100))


def test_always_first_decides_nothing_and_is_seen(pictures):
    found = measured(pictures, lambda question: 0)
    assert (found.accuracy, found.coverage) == (Proportion(0, 0), Proportion(0, 100))
    assert (found.flip_rate, found.symmetric_bias) == (Proportion(100, 100), 0.5)
    assert (found.first_position_rate.value, found.single_accuracy.value) == (1.0, 0.5)


def test_a_bias_of_a_third_is_measured(pictures):
    """With probability 1/3 the first image is named, else the better one: first 1/3 + 1/2 * 2/3, flips 1/3, both times."""
    rng = random.Random(0)
    found = measured(pictures, lambda question: 0 if rng.random() < 1 / 3 else brighter(question))
    assert found.first_position_rate.value == pytest.approx(2 / 3, abs=0.08)
    assert found.flip_rate.value == pytest.approx(1 / 3, abs=0.13)
    assert found.symmetric_bias == pytest.approx(1 / 6, abs=0.08)
    assert found.accuracy.value == 1.0


def test_errors_without_bias_have_no_symmetric_bias():
    """Half of all replies are random: the symmetric bias stays near 0 though the labels are lopsided, nine to one."""
    rng = random.Random(0)
    pairs = [pair(0 if number % 10 else 1) for number in range(4000)]
    verdicts = [said(p.preferred if rng.random() < 0.5 else rng.randrange(2)) for p in pairs]
    found = measure(pairs, verdicts)
    assert found.symmetric_bias == pytest.approx(0, abs=0.03)
    # That is of the labels, not of the judge.
    assert found.first_position_rate.value == pytest.approx(0.7, abs=0.03)


def test_a_judge_that_cannot_answer_ends_the_measurement(pictures):
    def refuse(question):
        raise JudgeError("the key is wrong")

    with pytest.raises(JudgeError, match="the key is wrong"):
        measured(pictures, refuse)


# --- the command --------------------------------------------------------------------------------------------------


@pytest.fixture
def pairs_file(pictures, tmp_path, monkeypatch):
    """The pictures, which lie elsewhere with leave, as a file of preference pairs."""
    folders = {str(path.parent) for pair in pictures for path in pair.images}
    monkeypatch.setenv("ARR_IMAGES", os.pathsep.join(sorted(folders)))
    records = [
        {
            "query": pair.prompt,
            "images": [str(path) for path in pair.images],
            "label_rank": [pair.preferred + 1, 2 - pair.preferred],
            "place": pair.tags["place"],
        }
        for pair in pictures[:20]
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


@pytest.fixture
def scripted(monkeypatch):
    """A client in place of every profile's; it sees no difference without a rubric."""

    def choose(question):
        return None if question.rubric == NO_RUBRIC["t2i"] else brighter(question)

    client = Scripted(choose)
    monkeypatch.setattr("arr_core.judging.profiles.make_client", lambda *_, **settings: client)
    return client


@pytest.fixture
def command(pairs_file, tmp_path):
    def command(*words) -> int:
        fixed = "evaluate", pairs_file, "--store", tmp_path / "store.sqlite"
        return main([*map(str, [*fixed, *words])])

    return command


def test_the_command_measures_with_and_without_a_rubric_side_by_side(
    command, scripted, tmp_path, capsys
):
    output = tmp_path / "measures.json"
    assert command("--judge", "human", "--output", output) == 0
    printed = capsys.readouterr().out
    assert "| 20 pairs" in printed and "rubric: text to image" in printed and "no rubric" in printed
    [row] = [line for line in printed.splitlines() if line.startswith("| right, of the decided")]
    assert [cell.strip() for cell in row.split("|")[2:4]] == ["100.0% (83.9-100.0), 20 of 20", "-"]
    assert "Cohen's kappa      | 1.00 (0.68 to 1.00)" in printed
    assert "| place=a" in printed and "| place=b" in printed
    written = json.loads(output.read_text(encoding="utf-8"))
    assert written["with_rubric"]["accuracy"]["value"] == 1.0
    assert written["without_rubric"]["coverage"]["value"] == 0.0
    assert written["with_rubric"]["by_tag"]["place=a"]["accuracy"]["total"] == 10
    assert written["task"] == "t2i"
    # Both orders, with and without; the second time the store knows all of it.
    assert len(scripted.asked) == 80
    assert command("--judge", "human") == 0
    assert len(scripted.asked) == 80


def test_a_dry_run_says_what_it_would_cost_and_asks_nothing(
    command, scripted, tmp_path, capsys, monkeypatch
):
    """Both orders of 20 pairs of 16 pixels with and without a rubric, three votes each: 720 tokens for the two images."""
    profile = {"url": "http://x/v1", "model": "m", "votes": 3, "price_per_million_tokens": 10}
    (tmp_path / "judges.yaml").write_text(json.dumps({"box": profile}))
    monkeypatch.setenv("ARR_JUDGES", str(tmp_path / "judges.yaml"))
    assert command("--judge", "box", "--dry-run") == 0
    said = "240 calls with 480 pictures, 170,000 prompt tokens and 84,000 reply tokens; about 2.52"
    assert said in capsys.readouterr().out and not scripted.asked
    assert not (tmp_path / "store.sqlite").exists()


def test_the_page_of_the_verdicts_says_right_and_wrong_with_and_without_the_rubric(
    command, scripted, tmp_path
):
    scripted.choose = lambda question: Opinion(
        0 if question.rubric == NO_RUBRIC["t2i"] else 1 - brighter(question), reply="raw words"
    )
    assert command("--judge", "human") == 0
    assert main(["show", str(tmp_path / "store.sqlite")]) == 0
    page = Page(tmp_path / "verdicts.html")
    assert "rubric no rubric 20 0 0 20 – -" in page.text
    assert "rubric text to image 20 0 20 0 0 % (0–16) -1.00 (-1.00 to -0.68)" in page.text
    assert page.text.count("wrong: people prefer") == 20 and page.text.count("raw words") == 80
    assert "wrong 20 no rubric 20 text to image 20" in page.text


def test_the_command_may_ask_less_and_take_a_rubric_of_the_users(command, scripted, tmp_path):
    (tmp_path / "mine.txt").write_text("It is bright.", encoding="utf-8")
    words = ("--only-rubric", "--one-order", "--limit", 5, "--rubric", tmp_path / "mine.txt")
    assert command("--judge", "human", *words) == 0
    assert [question.rubric.criteria for question in scripted.asked] == [("It is bright.",)] * 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--judge", "nobody"], "judge.profile: expected one of human, miniature, "),
        (
            ["--judge", "human", "--task", "edit"],
            "expected pairs for the task 'edit', got pairs without a source image; did you mean --task t2i?",
        ),
        (
            ["--judge", "human", "--output", "no/measures.json"],
            "no/measures.json: expected a file in a folder that exists",
        ),
        (["--judge", "human", "--rubric", "none.txt"], "none.txt: expected a rubric"),
    ],
    ids=str,
)
def test_wrong_words_are_one_line(command, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.setenv("ARR_JUDGES", str(tmp_path / "judges.yaml"))
    assert command(*words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line


def test_pairs_of_two_tasks_are_refused(pairs_file, command, capsys):
    record = json.loads(pairs_file.read_text(encoding="utf-8").splitlines()[0])
    record["source_image"] = record["images"][0]
    with pairs_file.open("a", encoding="utf-8") as file:
        file.write("\n" + json.dumps(record))
    assert command("--judge", "human") == 2
    assert (
        "expected pairs of one task, got 1 with a source image and 20 without"
        in capsys.readouterr().err
    )
