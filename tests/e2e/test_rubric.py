"""The command over real HTTP, with a small mind behind the server that sees the pictures and reads the questions."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from doubles.openai_server import CLOSED, OpenAIServer, Reply, Request, error
from doubles.rubric_model import answer
from PIL import Image

from arr_core.rubric import main
from arr_core.rubrics import load_rubric

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-a-key-that-nobody-may-see"
PROMPTS = [
    "a hopeless cup",
    "hard 1 cup",
    "hard 3 cup",
    "hard 5 cup",
    "comparing cups",
    *(f"cup {n}" for n in range(25)),
]


def mind(request: Request) -> str:
    """The reply to a request, by what it shows and says."""
    return answer(request.text, {} if isinstance(request.parts, str) else request.pictures)


@pytest.fixture
def user(tmp_path):
    """A user's folder with 30 labelled pairs: the darker picture of each was liked."""
    rows, dice = [], random.Random(0)
    for number, prompt in enumerate(PROMPTS):
        greys = [dice.randint(20, 90), dice.randint(140, 230)]
        for name, grey in zip("dl", greys, strict=True):
            Image.new("RGB", (48, 32), (grey, grey, number)).save(tmp_path / f"{number}{name}.png")
        order, rank = ("ld", [2, 1]) if number % 2 else ("dl", [1, 2])
        images = [f"{number}{name}.png" for name in order]
        rows.append({"query": prompt, "response": images, "label_rank": rank})
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def profile(server: OpenAIServer, user: Path, **more) -> None:
    content = {"url": server.url, "model": "eye", "key_variable": "MY_KEY", **more}
    (user / "judges.yaml").write_text(json.dumps({"box": content}))


def start(*words, user: Path, **options) -> subprocess.Popen:
    """The command in a process of its own, as a user starts it."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MY_KEY": KEY,
        "ARR_JUDGES": str(user / "judges.yaml"),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    command = [sys.executable, "-m", "arr_core.rubric", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=user, env=environment, stdout=pipe, stderr=pipe, text=True, **options
    )


def finish(job: subprocess.Popen) -> subprocess.CompletedProcess:
    """What it printed and its status; neither holds the key or a traceback."""
    with job:
        output, errors = job.communicate(timeout=300)
    assert KEY not in output + errors and "Traceback" not in errors
    return subprocess.CompletedProcess(job.args, job.returncode, output, errors)


def rubric(*words, user: Path) -> subprocess.CompletedProcess:
    return finish(start(*words, user=user))


def wait_for_calls(server: OpenAIServer, count: int, job: subprocess.Popen) -> None:
    while server.calls < count and job.poll() is None:
        time.sleep(0.005)


PAIRS = ("pairs", "pairs.jsonl", "--task", "t2i", "--judge", "box", "--output", "rubric.json")


def test_a_rubric_from_labelled_pairs(user):
    with OpenAIServer(mind, key=KEY) as server:
        profile(server, user, price_per_million_tokens=2.0)
        done = rubric(*PAIRS, user=user)
    assert done.returncode == 0, done.stderr
    least, most = map(int, re.search(r"calls \((\d+) to (\d+)\)", done.stdout).groups())
    assert least <= server.calls <= most
    cost = f"cost {server.calls * 7 * 2e-6:.2f}"
    assert f"{server.calls} calls" in done.stdout and cost in done.stdout
    assert "is better than 'text to image'" in done.stdout
    made = load_rubric(user / "rubric.json", "t2i")
    assert "The picture is dark." in made.text and made.provenance["held_out_accuracy"] == 1.0
    lines = (user / "rubric.work/pairs.jsonl").read_text().splitlines()
    outcomes = {line["prompt"]: line for line in map(json.loads, lines)}
    assert len(outcomes) == made.provenance["seed_pairs"]
    for prompt, attempts in zip(PROMPTS, (6, 2, 4, 6, 2), strict=False):
        if prompt in outcomes:
            assert len(outcomes[prompt]["attempts"]) == attempts, prompt
    page = (user / "rubric.html").read_text(encoding="utf-8")
    assert page.count("data:image/") == 2 * len(outcomes)
    assert not any(KEY.encode() in path.read_bytes() for path in user.rglob("*") if path.is_file())


def test_a_rubric_that_does_not_help_is_set_aside(user):
    """People liked the brighter picture here, as the judge does when it is left alone."""
    text = (user / "pairs.jsonl").read_text()
    turned = {"[1, 2]": "[2, 1]", "[2, 1]": "[1, 2]"}
    text = re.sub(r"\[[12], [12]\]", lambda rank: turned[rank[0]], text)
    (user / "pairs.jsonl").write_text(text)
    with OpenAIServer(mind) as server:
        profile(server, user)
        done = rubric(*PAIRS, user=user)
    assert done.returncode == 1 and not (user / "rubric.json").exists()
    assert "not shown to be better than 'text to image'" in done.stdout
    assert "No rubric was written to rubric.json" in done.stdout
    aside = load_rubric(user / "rubric.work/not-kept.json")
    assert aside.provenance["shown_to_be_better"] is False
    assert "Not kept" in (user / "rubric.html").read_text(encoding="utf-8")


def test_a_killed_job_goes_on_and_pays_nothing_twice(user):
    with OpenAIServer(lambda request: Reply(mind(request), delay_s=0.03)) as server:
        profile(server, user)
        with start(*PAIRS, "--concurrency", "4", user=user) as job:
            wait_for_calls(server, 25, job)
            job.kill()
        assert not (user / "rubric.json").exists()
        with sqlite3.connect(user / "rubric.work/verdicts.sqlite") as store:
            count = "SELECT (SELECT count(*) FROM opinions) + (SELECT count(*) FROM replies)"
            [answered] = store.execute(count).fetchone()
        assert 15 <= answered <= server.calls
        done = rubric(*PAIRS, user=user)
    assert done.returncode == 0, done.stderr
    assert f"{answered} replies were there already" in done.stdout


def test_a_server_with_faults_costs_pairs_and_never_the_job(user):
    """Each prompt has its fault, on every reply; what is left is enough."""
    faults = [
        error(500, Retry_After="0.01"),
        CLOSED,
        "no JSON",
        "",
        "[1, 1]",
        Reply(body=b"{}"),
        Reply(None),
        '{"criteria": ["x"]}',
    ]

    def shaky(request: Request):
        number = re.search(r"prompt:\ncup (\d+)\n", f"{request.text}\n")
        if number and int(number[1]) < len(faults):
            return faults[int(number[1])]
        return mind(request)

    with OpenAIServer(shaky) as server:
        profile(server, user)
        done = rubric(*PAIRS, user=user)
    assert done.returncode == 0, done.stderr
    said = load_rubric(user / "rubric.json").provenance
    lines = map(json.loads, (user / "rubric.work/pairs.jsonl").read_text().splitlines())
    failed = [line for line in lines if line["ending"] == "failed"]
    assert {line["prompt"] for line in failed} <= {f"cup {number}" for number in range(8)}
    assert len(failed) == said["pairs_failed"] >= 4 and all(line["reason"] for line in failed)
    assert "more failed" in done.stdout
    assert said["seed_pairs"] + said["held_out_pairs"] < len(PROMPTS)


def test_a_judge_that_cannot_answer_ends_the_job_with_one_line(user):
    with OpenAIServer(mind, key="another") as server:
        profile(server, user)
        done = rubric(*PAIRS, user=user)
    assert done.returncode == 2
    [said] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "refuses the key" in said and "the same command goes on" in said


def test_a_dry_run_asks_nothing(user):
    with OpenAIServer(mind) as server:
        profile(server, user, price_per_million_tokens=100.0)
        done = rubric(*PAIRS, "--dry-run", user=user)
    assert (done.returncode, server.calls) == (0, 0)
    assert re.search(r"about \d+ calls .*reply tokens; about \d+\.\d\d", done.stdout)
    assert not (user / "rubric.work").exists()


def test_an_interrupt_says_how_to_go_on(user):
    def take_interrupts():  # which are ignored in the background
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with OpenAIServer(lambda request: Reply(mind(request), delay_s=0.1)) as server:
        profile(server, user)
        job = start(*PAIRS, "--concurrency", "2", user=user, preexec_fn=take_interrupts)
        wait_for_calls(server, 5, job)
        job.send_signal(signal.SIGINT)
        done = finish(job)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == "stopped; the same command goes on from here"


def test_a_description_makes_a_rubric_that_can_be_shown_and_edited(user):
    (user / "task.txt").write_text("- The picture is dark.\nwith two cups\n", encoding="utf-8")
    example = {"prompt": "a bus", "rationale": "the red one was liked"}
    (user / "examples.jsonl").write_text(json.dumps(example))
    words = "describe task.txt --task t2i --judge box --output made.json --language zh --name cups"
    with OpenAIServer(mind) as server:
        profile(server, user)
        done = rubric(*words.split(), "--examples", "examples.jsonl", user=user)
    [request] = server.requests
    for part in ("with two cups", "the red one was liked", "Simplified Chinese"):
        assert part in request.text
    assert done.returncode == 0, done.stderr
    assert "1. Light\n   - The picture is dark." in done.stdout
    shown = rubric("show", "made.json", user=user)
    assert shown.returncode == 0
    assert shown.stdout.startswith("cups (text to image, zh, hash ")
    assert "made from" in shown.stdout and "Edited since" not in shown.stdout
    made = user / "made.json"
    made.write_text(made.read_text().replace("The picture is dark.", "It is night."))
    shown = rubric("show", "made.json", user=user).stdout
    assert "It is night." in shown and "Edited since it was made" in shown


def test_what_is_shown_can_be_edited_by_hand_and_read_again(user):
    done = rubric("show", "edit zh", "--output", "mine.json", user=user)
    assert done.returncode == 0 and "BASE" in done.stdout
    lines = re.findall(r"^\d\. .*", done.stdout, re.MULTILINE)
    (user / "mine.txt").write_text("\n".join(lines), encoding="utf-8")
    read = load_rubric(user / "mine.txt", "edit")
    assert read.content_hash == load_rubric(user / "mine.json").content_hash


@pytest.mark.parametrize(
    "words, said",
    [
        (("show", "nothing.json"), "a built-in one ('t2i', 'edit'"),
        (("pairs", "none.jsonl", *PAIRS[2:]), "got no such file"),
        ((*PAIRS[:-1], "rubric.txt"), "ends in .json"),
        ((*PAIRS[:-1], "pairs.json"), "there already"),
        ((*PAIRS[:-1], "no/rubric.json"), "a folder that exists"),
        ((*PAIRS[:3], "edit", *PAIRS[4:]), "did you mean --task t2i"),
        ((*PAIRS[:5], "nobody", *PAIRS[6:]), "expected one of"),
        ((*PAIRS[:5], "miniature", *PAIRS[6:]), "writes no text"),
        ((*PAIRS, "--held-out-file", "pairs.jsonl"), "got none"),
        (("describe", " ", *PAIRS[2:6]), "got nothing"),
        (("describe", "no.txt", *PAIRS[2:6]), "expected a text file"),
        ((*PAIRS, "--held-out", "1"), "from 0.01 to 0.99"),
    ],
)
def test_wrong_input_is_one_line_that_says_what(user, words, said, monkeypatch, capsys):
    (user / "judges.yaml").write_text("box: {url: 'http://127.0.0.1:9/v1', model: eye}\n")
    (user / "pairs.json").write_text("[]")
    monkeypatch.chdir(user)
    monkeypatch.setenv("ARR_JUDGES", "judges.yaml")
    try:
        status = main(words)
    except SystemExit as end:
        status = end.code
    errors = capsys.readouterr().err
    assert status == 2 and said in errors and re.fullmatch("error: .*\n", errors)
    assert not (user / "rubric.work").exists()
