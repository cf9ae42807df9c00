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

from arr_core.rubrics import load_rubric

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-a-key-that-nobody-may-see"
PROMPTS = [
    "a hopeless cup",
    "hard 1 cup",
    "hard 3 cup",
    "hard 5 cup",
    "comparing cups",
    *(f"cup {n}" for n in range(15)),
]


def mind(request: Request) -> str:
    """The reply to a request, by what it shows and says."""
    pictures = {} if isinstance(request.parts, str) else request.pictures
    return answer(request.text, pictures)


@pytest.fixture
def user(tmp_path):
    """A user's folder with 20 labelled pairs: the darker picture of each was liked."""
    rows, dice = [], random.Random(0)
    for number, prompt in enumerate(PROMPTS):
        greys = [dice.randint(20, 90), dice.randint(140, 230)]
        for name, grey in zip("dl", greys, strict=True):
            Image.new("RGB", (48, 32), (grey, grey, number)).save(tmp_path / f"{number}{name}.png")
        swapped = number % 2
        rows.append(
            {
                "query": prompt,
                "response": [f"{number}{name}.png" for name in ("ld" if swapped else "dl")],
                "label_rank": [2, 1] if swapped else [1, 2],
            }
        )
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def environment(user: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MY_KEY": KEY,
        "ARR_JUDGES": str(user / "judges.yaml"),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


def profile(server: OpenAIServer, user: Path, **more) -> None:
    content = {"url": server.url, "model": "eye", "key_variable": "MY_KEY", **more}
    (user / "judges.yaml").write_text(json.dumps({"box": content}))


def rubric(*words, user: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "arr_core.rubric", *map(str, words)],
        cwd=user,
        env=environment(user),
        capture_output=True,
        text=True,
        timeout=120,
    )


PAIRS = ("pairs", "pairs.jsonl", "--task", "t2i", "--judge", "box", "--output", "rubric.json")


def written(server: OpenAIServer) -> list[str]:
    return [request.text for request in server.requests if "PREFERRED" in request.text]


def test_a_rubric_from_labelled_pairs(user):
    with OpenAIServer(mind, key=KEY) as server:
        profile(server, user, price_per_million_tokens=2.0)
        done = rubric(*PAIRS, user=user)
        assert done.returncode == 0, done.stderr
        least, most = map(int, re.search(r"calls \((\d+) to (\d+)\)", done.stdout).groups())
        assert least <= server.calls <= most
        assert (
            f"{server.calls} calls" in done.stdout
            and f"cost {server.calls * 7 * 2e-6:.2f}" in done.stdout
        )
        assert all(
            request.headers["Authorization"] == f"Bearer {KEY}" for request in server.requests
        )
        verifying = [
            request
            for request in server.requests
            if "FIRST" in request.text and "PREFERRED" not in request.text
        ]
        assert {tuple(request.pictures) for request in verifying} == {("FIRST", "SECOND")}
        assert not any("liked" in request.text for request in verifying)
    made = load_rubric(user / "rubric.json", "t2i")
    told = made.provenance
    assert "The picture is dark." in made.text and len(made.themes) <= 5
    assert (
        told["held_out_accuracy"],
        told["held_out_accuracy_without_rubric"],
        told["flip_rate"],
    ) == (1.0, 0.0, 0.0)
    assert told["seed_pairs"] + told["held_out_pairs"] == len(PROMPTS) and told["model"].startswith(
        "openai:eye"
    )
    assert "beats the same judge without one" in done.stdout
    outcomes = {
        line["prompt"]: line for line in map(json.loads, (user / "rubric.work/pairs.jsonl").open())
    }
    assert len(outcomes) == told["seed_pairs"]
    for prompt, attempts in zip(PROMPTS, (6, 2, 4, 6, 2), strict=False):
        if prompt in outcomes:
            assert len(outcomes[prompt]["attempts"]) == attempts, prompt
            assert outcomes[prompt]["ending"] == (
                "discarded" if "hopeless" in prompt else "refined"
            )
    page = (user / "rubric.html").read_text(encoding="utf-8")
    assert all(prompt in page for prompt in outcomes) and page.count("data:image/") == 2 * len(
        outcomes
    )
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:|#)""", page) and "<script" not in page
    files = [path for path in user.rglob("*") if path.is_file()]
    assert (
        not any(KEY.encode() in path.read_bytes() for path in files)
        and KEY not in done.stdout + done.stderr
    )


def test_a_rubric_that_does_not_help_is_set_aside(user):
    """People liked the brighter picture here, as the judge does when it is left alone."""
    rows = [json.loads(line) for line in (user / "pairs.jsonl").open()]
    turned = [{**row, "label_rank": row["label_rank"][::-1]} for row in rows]
    (user / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in turned))
    with OpenAIServer(mind) as server:
        profile(server, user)
        done = rubric(*PAIRS, user=user)
    assert done.returncode == 1
    assert (
        "does not beat the same judge without one" in done.stdout
        and "No rubric was written to rubric.json" in done.stdout
    )
    assert not (user / "rubric.json").exists()
    assert (
        load_rubric(user / "rubric.work/not-kept.json").provenance["beats_judge_without_rubric"]
        is False
    )
    assert "Not kept" in (user / "rubric.html").read_text(encoding="utf-8")


def test_a_killed_job_goes_on_and_pays_nothing_twice(user):
    with OpenAIServer(lambda request: Reply(mind(request), delay_s=0.03)) as server:
        profile(server, user)
        job = subprocess.Popen(
            [sys.executable, "-m", "arr_core.rubric", *PAIRS, "--concurrency", "4"],
            cwd=user,
            env=environment(user),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while server.calls < 25 and time.monotonic() < deadline:
            time.sleep(0.005)
        job.send_signal(signal.SIGKILL)
        job.wait(timeout=10)
        assert not (user / "rubric.json").exists()
        time.sleep(0.2)
        before = server.calls
        with sqlite3.connect(user / "rubric.work/verdicts.sqlite") as store:
            answered = sum(
                store.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                for table in ("opinions", "replies")
            )
        assert 15 <= answered <= before
        done = rubric(*PAIRS, user=user)
        assert done.returncode == 0, done.stderr
        resumed = server.calls - before
    with OpenAIServer(mind) as server:
        profile(server, user)
        whole = rubric(*PAIRS[:-1], "fresh.json", user=user)
        assert whole.returncode == 0
        assert (
            resumed == server.calls - answered
        )  # whatever was answered is not asked again, and nothing else is left out
    assert f"{answered} replies were there already" in done.stdout
    one, other = (
        json.loads((user / name).read_text(encoding="utf-8"))
        for name in ("rubric.json", "fresh.json")
    )
    for rubric_file in (one, other):  # they name the server's port
        del rubric_file["provenance"]["model"], rubric_file["provenance"]["judge"]
    assert {**one, "name": ""} == {**other, "name": ""}


def test_a_server_with_faults_costs_pairs_and_never_the_job(user):
    """Each prompt has its fault, on every reply; what is left is enough. A sound server later makes the rest good."""
    faults = dict(
        zip(
            [f"cup {n}\n" for n in range(8)],
            [
                error(500, Retry_After="0.01"),
                CLOSED,
                "no JSON",
                "",
                "[1, 1]",
                Reply(body=b"{}"),
                Reply(None),
                '{"criteria": ["x"]}',
            ],
            strict=True,
        )
    )

    def shaky(request: Request):
        return next(
            (
                fault
                for prompt, fault in faults.items()
                if f"prompt:\n{prompt}" in f"{request.text}\n"
            ),
            mind(request),
        )

    with OpenAIServer(shaky) as server:
        profile(server, user)
        done = rubric(*PAIRS, user=user)
        assert done.returncode == 0, done.stderr
    said = load_rubric(user / "rubric.json").provenance
    failed = [
        line
        for line in map(json.loads, (user / "rubric.work/pairs.jsonl").open())
        if line["ending"] == "failed"
    ]
    assert {f"{line['prompt']}\n" for line in failed} <= set(faults)
    assert len(failed) == said["pairs_failed"] >= 4 and all(line["reason"] for line in failed)
    assert "more failed" in done.stdout and said["seed_pairs"] + said["held_out_pairs"] < len(
        PROMPTS
    )
    (user / "rubric.json").unlink()
    with OpenAIServer(mind) as server:
        profile(server, user)
        assert rubric(*PAIRS, user=user).returncode == 0
        asked_about = {
            prompt
            for prompt in PROMPTS
            for text in written(server)
            if f"prompt:\n{prompt}\n" in f"{text}\n"
        }
    assert {f"{prompt}\n" for prompt in asked_about} == {f"{line['prompt']}\n" for line in failed}
    assert load_rubric(user / "rubric.json").provenance["pairs_failed"] == 0


@pytest.mark.parametrize(
    "options, said",
    [({"key": "another"}, "refuses the key"), ({"model": "other"}, "knows no model")],
)
def test_a_judge_that_cannot_answer_ends_the_job_with_one_line_and_it_goes_on_later(
    user, options, said
):
    with OpenAIServer(mind, **options) as server:
        profile(server, user)
        done = rubric(*PAIRS, user=user)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and said in errors[0] and "the same command goes on" in errors[0]
    assert KEY not in done.stdout + done.stderr and "Traceback" not in done.stderr
    with OpenAIServer(mind) as server:
        profile(server, user)
        assert rubric(*PAIRS, user=user).returncode == 0


def test_a_dry_run_asks_nothing(user):
    with OpenAIServer(mind) as server:
        profile(server, user, price_per_million_tokens=100.0)
        done = rubric(*PAIRS, "--dry-run", user=user)
        assert (done.returncode, server.calls) == (0, 0)
    assert re.search(
        r"about \d+ calls \(\d+ to \d+\), .*prompt tokens.*reply tokens; about \d+\.\d\d",
        done.stdout,
    )
    assert not (user / "rubric.work").exists()


def test_an_interrupt_says_how_to_go_on(user):
    with OpenAIServer(lambda request: Reply(mind(request), delay_s=0.1)) as server:
        profile(server, user)
        job = subprocess.Popen(
            [sys.executable, "-m", "arr_core.rubric", *PAIRS, "--concurrency", "2"],
            cwd=user,
            env=environment(user),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # ignored in the background
        while server.calls < 5 and job.poll() is None:
            time.sleep(0.01)
        job.send_signal(signal.SIGINT)
        _, errors = job.communicate(timeout=20)
    assert job.returncode == 3
    assert (
        errors.splitlines()[-1] == "stopped; the same command goes on from here"
        and "Traceback" not in errors
    )


def test_a_description_makes_a_rubric_that_can_be_shown_and_used(user):
    (user / "task.txt").write_text("- The picture is dark.\nwith two cups\n", encoding="utf-8")
    (user / "examples.jsonl").write_text(
        json.dumps({"prompt": "a bus", "rationale": "the red one was liked"}) + "\n"
    )
    with OpenAIServer(mind) as server:
        profile(server, user)
        done = rubric(
            "describe",
            "task.txt",
            "--task",
            "t2i",
            "--judge",
            "box",
            "--output",
            "made.json",
            "--language",
            "zh",
            "--examples",
            "examples.jsonl",
            "--name",
            "two cups",
            user=user,
        )
        [request] = server.requests
        assert all(
            words in request.text
            for words in ("with two cups", "the red one was liked", "Simplified Chinese")
        )
    assert done.returncode == 0, done.stderr
    assert "1. Light\n   - The picture is dark." in done.stdout
    shown = rubric("show", "made.json", user=user)
    assert shown.returncode == 0
    assert (
        shown.stdout.startswith("two cups (text to image, zh, hash ")
        and "made from" in shown.stdout
    )
    assert "1. Light\n   - The picture is dark." in shown.stdout


def test_what_is_shown_can_be_edited_by_hand_and_read_again(user):
    done = rubric("show", "edit zh", "--output", "mine.json", user=user)
    assert done.returncode == 0 and "BASE" in done.stdout
    lines = [line for line in done.stdout.splitlines() if re.match(r"\d\. ", line)]
    (user / "mine.txt").write_text("\n".join(lines), encoding="utf-8")
    assert (
        load_rubric(user / "mine.txt", "edit").content_hash
        == load_rubric(user / "mine.json").content_hash
    )


def test_figures_of_a_rubric_that_was_edited_are_not_taken_for_its_own(user):
    with OpenAIServer(mind) as server:
        profile(server, user)
        assert rubric(*PAIRS, user=user).returncode == 0
    assert "Edited since" not in rubric("show", "rubric.json", user=user).stdout
    (user / "rubric.json").write_text(
        (user / "rubric.json").read_text().replace("The picture is dark.", "It is night.")
    )
    shown = rubric("show", "rubric.json", user=user).stdout
    assert "It is night." in shown and "Edited since it was made" in shown


@pytest.mark.parametrize(
    "words, said",
    [
        (("show", "nothing.json"), "the built-in ones are 't2i', 'edit'"),
        (("show", "pairs.jsonl"), "expected a task with this text"),
        (("pairs", "none.jsonl", *PAIRS[2:]), "there is no such file"),
        ((*PAIRS[:-1], "rubric.txt"), "ends in .json"),
        ((*PAIRS[:-1], "pairs.json"), "there already"),
        ((*PAIRS[:-1], "no/rubric.json"), "a folder that exists"),
        ((*PAIRS[:3], "edit", *PAIRS[4:]), "did you mean --task t2i"),
        ((*PAIRS[:5], "nobody", *PAIRS[6:]), "expected one of"),
        ((*PAIRS[:5], "miniature", *PAIRS[6:]), "writes no text"),
        ((*PAIRS, "--examples", "pairs.jsonl"), "rationale"),
        ((*PAIRS, "--held-out-file", "pairs.jsonl"), "got none"),
        ((*PAIRS, "--writer", "miniature"), "writes no text"),
        (("describe", " ", *PAIRS[2:6]), "got nothing"),
        (("describe", "no.txt", *PAIRS[2:6]), "expected a text file"),
        ((*PAIRS, "--held-out", "1"), "from 0.01 to 0.99"),
    ],
)
def test_wrong_input_is_one_line_that_says_what(user, words, said):
    (user / "judges.yaml").write_text("box: {url: 'http://127.0.0.1:9/v1', model: eye}\n")
    (user / "pairs.json").write_text("[]")
    done = rubric(*words, user=user)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.startswith("usage:") or (done.stderr.count("\n"), done.stderr[:7]) == (
        1,
        "error: ",
    )
    assert not (user / "rubric.work").exists()
