"""The main job on a user's own input: photographs with edit instructions, a file of prompts, a judge on the network.

Random pipelines stand in for the published bases, and a small HTTP server for the judge; all between them is real.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from doubles.openai_server import OpenAIServer, brighter, error
from PIL import Image
from safetensors.torch import load_file

from arr_core.config.load import load_config
from arr_core.training.events import History, history, read_events

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-a-key-that-nobody-may-see"
SMALL = """
--policy.dtype float32 --policy.device cpu --policy.height 64 --policy.width 64 --run.threads 1 --run.updates 2
--run.save_every 1 --rollout.steps 3 --rollout.prompts_per_update 2 --rollout.micro_batch 4 --validation.every 1
--validation.images 2 --data.validation_count 2 --judge.profile box --judge.retries 0 --run.name mine
""".split()
DATA = {
    "flux": "--data.train prompts.txt --policy.max_sequence_length 64",
    "qwen-image-edit": "--data.train edits.jsonl",
}
FILES = """
config.yaml rubric.json events.jsonl verdicts.sqlite report.html mine.safetensors adapter/adapter_config.json
adapter/adapter_model.safetensors adapter-best/adapter_model.safetensors checkpoints/1/state.json
checkpoints/2/weights.safetensors samples/base/000.png samples/00001/000.png samples/00002/001.png
""".split()
PROMPTS = """\
A high-resolution product photo of two matte blue ceramic cups on a wooden table

a cat that reads a newspaper — "The Daily Mouse", page 3
苹果在桌子上, in the style of an ink drawing
three red balloons left of a bicycle
"""
EDITS = {
    "Change the suit to dark green; preserve the face.": "astronaut.jpg",
    "Turn the coffee into green tea.": "coffee.png",
    "Replace the flag by a plain curtain.": "astronaut.jpg",
    "Put a slice of lemon on the saucer; keep everything else.": "coffee.png",
}


@pytest.fixture
def user(tmp_path):
    """A user's folder: two photographs of about 512 pixels, one standing and one lying, with edits, and prompts."""
    data = pytest.importorskip("skimage.data")
    Image.fromarray(data.astronaut()).crop((60, 0, 420, 512)).save(tmp_path / "astronaut.jpg")
    Image.fromarray(data.coffee()).resize((512, 341)).save(tmp_path / "coffee.png")
    edits = [{"source_image": name, "instruction": text} for text, name in EDITS.items()]
    (tmp_path / "edits.jsonl").write_text("\n".join(map(json.dumps, edits)))
    (tmp_path / "prompts.txt").write_text(PROMPTS, encoding="utf-8")
    return tmp_path


def command(name: str, *words, user: Path) -> subprocess.CompletedProcess:
    judges = {"MY_KEY": KEY, "ARR_JUDGES": str(user / "judges.yaml")}
    return subprocess.run(
        [sys.executable, "-m", f"arr_core.{name}", *map(str, words)],
        cwd=user,
        env={**os.environ, **judges, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.fixture
def train(user, saved_pipeline):
    """``train(server, preset, pipeline)`` trains on the user's prompts, and for an edit on the photographs."""

    def run(server: OpenAIServer, preset: str = "flux", pipeline: str = "flux"):
        profile = f"box: {{url: '{server.url}', model: eye, key_variable: MY_KEY}}\n"
        (user / "judges.yaml").write_text(profile)
        given = DATA[preset].split()
        base = saved_pipeline(pipeline)
        return command("train", preset, "--policy.base", base, *given, *SMALL, user=user)

    return run


def complete(run: Path) -> History:
    """What a run has told, once everything that it promises to leave is there and sound."""
    assert [file for file in FILES if not (run / file).is_file()] == []
    assert load_config(str(run / "config.yaml")).run.name == "mine"
    told = history(read_events(run / "events.jsonl"))
    assert told.state == "finished"
    for events in (told.updates, told.validations):
        assert [event.update for event in events] == [1, 2]
    weights = load_file(run / "adapter" / "adapter_model.safetensors")
    assert any(tensor.any() for key, tensor in weights.items() if "lora_B" in key), (
        "the adapter was trained"
    )
    assert load_file(run / "mine.safetensors").keys() == {
        key.replace("base_model.model.", "transformer.") for key in weights
    }
    assert not list(run.rglob("*.part*"))
    return told


def nothing_tells(folder: Path, done: subprocess.CompletedProcess, *secrets: str) -> None:
    """No file of a run, and nothing that it printed, holds the key or where the judge is."""
    for secret in secrets:
        assert secret not in done.stdout + done.stderr
        for path in folder.rglob("*"):
            assert not path.is_file() or secret.encode() not in path.read_bytes(), (path, secret)


@pytest.mark.parametrize("name", ["qwen", "qwen-plus"])
def test_real_photographs_with_edit_instructions(user, train, name):
    run = user / "runs/mine"
    with OpenAIServer(brighter, key=KEY, model="eye") as server:
        done = train(server, "qwen-image-edit", name)
        assert done.returncode == 0, done.stderr
        told = complete(run)
        nothing_tells(user / "runs", done, KEY, server.url.removeprefix("http://"))
        requests = server.requests
    assert "On held-out prompts the adapter" in done.stdout and "of 2 undecided" in done.stdout
    assert all(
        update.decided + update.undecided == 2 and update.failures == 0 for update in told.updates
    )
    assert any(update.decided for update in told.updates)
    with contextlib.closing(sqlite3.connect(run / "verdicts.sqlite")) as verdicts:
        [(stored,)] = verdicts.execute("SELECT count(*) FROM opinions")
    assert stored == len(requests)  # every question once
    rubric = json.loads((run / "rubric.json").read_text())
    for request in requests:
        assert all(criterion in request.text for criterion in rubric["criteria"])
        assert list(request.pictures) == ["BASE", "FIRST", "SECOND"]
        source, image = request.pictures["BASE"], request.pictures["FIRST"]
        asked = next(file for text, file in EDITS.items() if text in request.text)
        shape = Image.open(user / asked).size
        assert source.size == image.size, "both are judged at the size of the edit"
        assert (image.width > image.height) == (shape[0] > shape[1]), "an edit keeps its shape"
        assert abs(image.width * image.height - 64 * 64) < 64 * 64 * 0.2
    assert len({request.pictures["BASE"].size for request in requests}) == 2


def test_a_users_prompts_and_then_pictures_of_the_run(user, train):
    with OpenAIServer(brighter, key=KEY, model="eye", schema=False) as server:
        done = train(server)
        assert done.returncode == 0, done.stderr
        complete(user / "runs/mine")
        nothing_tells(user / "runs", done, KEY, server.url.removeprefix("http://"))
        texts = "\n".join(request.text for request in server.requests)
    assert all(prompt in texts for prompt in PROMPTS.splitlines() if prompt)
    assert "苹果在桌子上" in (user / "runs/mine/report.html").read_text(encoding="utf-8")
    made = command("generate", "runs/mine", "--steps", 2, "--output", "pictures", user=user)
    assert made.returncode == 0, made.stderr
    assert made.stdout == "wrote 4 images and grid.png to pictures\n"
    assert Image.open(
        user / "pictures/0001-in-the-style-of-an-ink-drawing-seed0-adapter.png"
    ).size == (64, 64)


def test_a_judge_that_always_fails_teaches_nothing(user, train):
    with OpenAIServer([error(500, KEY)]) as server:
        done = train(server)
    assert KEY not in done.stdout + done.stderr
    told = history(read_events(user / "runs/mine/events.jsonl"))
    assert all((update.decided, update.failures) == (0, 2) for update in told.updates)
    weights = user / "runs/mine/adapter/adapter_model.safetensors"
    if (
        weights.exists()
    ):  # whether such a run ends early or goes on, nothing was learned from failures
        assert not any(
            tensor.any() for key, tensor in load_file(weights).items() if "lora_B" in key
        )


@pytest.mark.parametrize(
    "server, said",
    [
        (dict(key="another"), "refuses the key (HTTP 401)"),
        (dict(model="another"), "knows no model 'eye' (HTTP 404)"),
    ],
)
def test_a_judge_that_will_never_answer_ends_the_run_with_one_line(user, train, server, said):
    with OpenAIServer(**server) as server:
        done = train(server)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and said in lines[0] and "Traceback" not in done.stderr
    nothing_tells(user / "runs", done, KEY)
