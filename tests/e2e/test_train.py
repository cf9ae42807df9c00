"""The command `python -m arr_core.train` as a user runs it: to the end, stopped, killed, resumed, refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from arr_core.config.load import load_config
from arr_core.training.events import ProgressEvent, UpdateEvent, history, read_events

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
SMALL = (
    "--run.threads=1 --rollout.prompts_per_update=4 --rollout.micro_batch=4 --rollout.steps=4 --validation.every=2 "
    "--validation.count=4 --validation.images=2 --run.save_every=2"
).split()


def start(*words: str, folder: Path = ROOT) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "arr_core.train", *words],
        cwd=folder,
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(*words: str, folder: Path = ROOT) -> tuple[int, str, str]:
    """Exit status, output and error of the command."""
    process = start(*words, folder=folder)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def small(preset: str, run: Path, *words: str) -> list[str]:
    """The words of a small run in the folder ``run``."""
    return [preset, *SMALL, f"--run.output_dir={run.parent}", f"--run.name={run.name}", *words]


def refusal(result: tuple[int, str, str]) -> str:
    """The one line of a command that refused its input."""
    status, _, err = result
    lines = [line for line in err.strip().splitlines() if line.startswith("error: ")]
    assert status == 2 and len(lines) == 1 and "Traceback" not in err, err
    return lines[0]


def wait_for_update(run: Path, update: int, process: subprocess.Popen) -> None:
    """Return as soon as the run has recorded an update."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        events = run / "events.jsonl"
        if events.exists() and history(read_events(events)).update >= update:
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    raise AssertionError(f"no update {update} in time")


def same_state(a: Path, b: Path) -> None:
    """Weights, Adam's moments, generators, prompt cursor: equal bit for bit."""
    one, other = load_file(a / "weights.safetensors"), load_file(b / "weights.safetensors")
    assert one.keys() == other.keys() and len(one) > 0
    assert all(torch.equal(one[name], other[name]) for name in one)
    states = [torch.load(path / "optimizer.pt", weights_only=True) for path in (a, b)]
    moments = [state["optimizer"]["state"].values() for state in states]
    for mine, others in zip(*moments, strict=True):
        assert all(torch.equal(mine[name], others[name]) for name in mine)
    assert torch.equal(states[0]["generators"]["cpu"], states[1]["generators"]["cpu"])
    orders = [json.loads((path / "state.json").read_text())["order"] for path in (a, b)]
    assert orders[0] == orders[1]


def test_a_run_leaves_a_complete_folder(tmp_path):
    run = tmp_path / "run"
    status, out, err = finish(*small("miniature", run, "--run.updates=2"))
    assert status == 0, err
    for name in (
        "config.yaml",
        "rubric.json",
        "events.jsonl",
        "verdicts.sqlite",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter-best/adapter_model.safetensors",
        "run.safetensors",
        "checkpoints/2/weights.safetensors",
        "report.html",
        "samples/base/000.png",
        "samples/00002/001.png",
    ):
        assert (run / name).is_file(), name
    assert "held-out prompts" in out and "finished" in (run / "report.html").read_text()
    kinds = [event.event for event in read_events(run / "events.jsonl")]
    assert kinds[0] == "started" and kinds.count("update") == 2
    assert {"validation", "checkpoint", "finished", "measure"} <= {*kinds}


@pytest.mark.parametrize(
    "preset, flags",
    [
        (
            "miniature",
            "--objective.algorithm=nft --adapter.ema_decay=0.5 --adapter.dropout=0.1",
        ),
        (
            "miniature",
            "--objective.algorithm=rpo --objective.kl_coefficient=0.01 --objective.optimizer_steps=2 "
            "--rollout.sampler=flow --rollout.eta=0.7 --optimizer.warmup_updates=3",
        ),
        ("miniature-edit", ""),
    ],
)
def test_a_resumed_run_equals_one_that_was_never_stopped_bit_for_bit(tmp_path, preset, flags):
    for name, updates in (("whole", 4), ("parts", 2)):
        words = small(preset, tmp_path / name, *flags.split(), f"--run.updates={updates}")
        assert finish(*words)[0] == 0
    status, _, err = finish("--resume", str(tmp_path / "parts"), "--run.updates=4")
    assert status == 0, err
    same_state(tmp_path / "whole/checkpoints/4", tmp_path / "parts/checkpoints/4")


def test_a_stopped_and_a_killed_run_go_on_as_if_nothing_had_happened(tmp_path):
    whole, stopped, killed = (tmp_path / name for name in ("whole", "stopped", "killed"))
    assert finish(*small("miniature", whole, "--run.updates=5"))[0] == 0

    process = start(*small("miniature", stopped, "--run.updates=5"))
    wait_for_update(stopped, 1, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    run = history(read_events(stopped / "events.jsonl"))
    assert run.stopped and (stopped / f"checkpoints/{run.stopped.update}").is_dir()

    process = start(*small("miniature", killed, "--run.updates=5"))
    wait_for_update(killed, 3, process)
    process.kill()
    process.communicate()

    for folder in (stopped, killed):
        status, _, err = finish("--resume", str(folder))
        assert status == 0, err
        same_state(whole / "checkpoints/5", folder / "checkpoints/5")
    calls = {event.update: event.judge_calls for event in run_updates(killed)}
    assert calls[3] == 0, "the third update was judged before the kill; the store remembers"


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP")
def test_a_terminal_that_closes_ends_the_run_saved(tmp_path):
    run = tmp_path / "run"
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    process = start(*small("miniature", run, "--run.updates=500"))
    signal.signal(signal.SIGHUP, before)
    process.stdout.close(), process.stderr.close()  # as | head does
    wait_for_update(run, 1, process)
    process.send_signal(signal.SIGHUP), process.send_signal(signal.SIGHUP)
    assert process.wait(120) == 3
    stopped = history(read_events(run / "events.jsonl")).stopped
    assert stopped and (run / f"checkpoints/{stopped.update}").is_dir()
    assert (run / "run.safetensors").is_file()


def run_updates(run: Path) -> list[UpdateEvent]:
    return history(read_events(run / "events.jsonl")).updates


@pytest.mark.parametrize(
    "words, says",
    [
        (["minature"], "did you mean miniature"),
        (["miniature", "--rollout.stepz", "3"], "did you mean rollout.steps"),
        (["miniature", "--rollout.steps", "many"], "rollout.steps"),
        (["flux"], "data.train"),
        (["miniature", "--policy.base", "nowhere/to/be/found"], "policy.base"),
        (["miniature", "--judge.profile", "nobody"], "nobody"),
        (["miniature", "--policy.sharded", "true"], "accelerate launch"),
        (["--resume", "nowhere"], "config.yaml"),
        ([], "preset"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, words, says):
    assert says in refusal(finish(*words, folder=tmp_path))


def test_files_of_the_user_are_checked_before_anything_loads(tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    edit = {"source_image": "gone.png", "instruction": "make it red"}
    (tmp_path / "edits.jsonl").write_text(json.dumps(edit) + "\n")
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "config.yaml").write_text("{}")
    for words, says in (
        (["miniature", "--data.train=empty.txt"], "empty.txt"),
        (["miniature-edit", "--data.train=edits.jsonl"], "edits.jsonl:1"),
        (small("miniature", taken), "--resume"),
    ):
        assert says in refusal(finish(*words, folder=tmp_path))


def test_a_changed_setting_is_refused_on_resume_by_its_name_and_damage_is_passed_by(
    tmp_path,
):
    run = tmp_path / "run"
    assert finish(*small("miniature", run, "--run.updates=4"))[0] == 0
    resume = ["--resume", str(run), "--run.updates=6"]
    assert "optimizer.learning_rate" in refusal(finish(*resume, "--optimizer.learning_rate=0.5"))
    weights = run / "checkpoints/4/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (run / "config.yaml").write_text("")
    status, _, err = finish(*resume)
    assert status == 0 and "4: the checkpoint is damaged" in err and "after update 2" in err
    assert load_config(str(run / "config.yaml")).run.updates == 6


def test_a_run_finds_its_prompts_from_anywhere_and_goes_on_with_no_others(tmp_path):
    colours = ("blue", "green", "red", "yellow", "purple")
    prompts = "".join(f"a red circle left of a {colour} square\n" for colour in colours)
    (tmp_path / "prompts.txt").write_text(prompts)
    data = "--data.train=prompts.txt --data.validation=null --data.validation_count=2".split()
    words = small("miniature", Path("runs/run"), *data, "--run.updates=2")
    status, _, err = finish(*words, folder=tmp_path)
    assert status == 0, err
    run = tmp_path / "runs/run"
    assert finish("--resume", str(run), "--run.updates=3")[0] == 0
    moved = run.rename(tmp_path / "runs/renamed")
    assert finish("--resume", str(moved), "--run.updates=4")[0] == 0
    (tmp_path / "prompts.txt").write_text(prompts.replace("circle", "square"))
    resumed = finish("--resume", str(moved), "--run.updates=5")
    assert "prompts.txt: expected the prompts" in refusal(resumed)


# ---------------------------------------------------------------------- several processes


def finish_two_processes(*words: str) -> None:
    command = "-m torch.distributed.run --nproc-per-node 2 --standalone -m arr_core.train".split()
    done = subprocess.run(
        [sys.executable, *command, *words],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("algorithm", ["rpo", "nft"])
def test_two_processes_make_the_update_of_one_with_twice_the_prompts(tmp_path, algorithm):
    """gloo on two CPU ranks: prompts are sharded, gradients summed, one rank writes."""
    one, two = tmp_path / "one", tmp_path / "two"
    flags = "--rollout.micro_batch=2 --rollout.sampler=flow --rollout.eta=0.7 --run.updates=2"
    words = [*flags.split(), f"--objective.algorithm={algorithm}"]
    assert finish(*small("miniature", one, *words))[0] == 0
    finish_two_processes(*small("miniature", two, *words))
    a, b = (load_file(run / "checkpoints/2/weights.safetensors") for run in (one, two))
    moved = [name for name in a if name.startswith("adapter/") and "lora_B" in name]
    assert all(torch.allclose(a[name], b[name], rtol=1e-3, atol=1e-6) for name in moved)
    assert any(a[name].abs().max() > 1e-4 for name in moved)
    losses = [[event.loss for event in run_updates(run)] for run in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3, abs=1e-6)  # of all processes


@pytest.mark.parametrize("preset, algorithm", [("miniature", "rpo"), ("miniature-edit", "nft")])
def test_a_base_split_over_two_processes_trains_bit_for_bit_as_a_whole_one(
    tmp_path, preset, algorithm
):
    """FSDP2 on two CPU ranks, which hold different numbers of decided pairs and so have different numbers of calls to make."""
    flags = "--rollout.micro_batch=2 --rollout.eta=0.7 --run.updates=3 --validation.count=5"
    words = [*flags.split(), f"--objective.algorithm={algorithm}"]
    for name, split in (("whole", "false"), ("split", "true")):
        sharding = [f"--policy.sharded={split}", f"--policy.gradient_checkpointing={split}"]
        finish_two_processes(*small(preset, tmp_path / name, *words, *sharding))
    whole, split = (
        load_file(tmp_path / name / "checkpoints/3/weights.safetensors")
        for name in ("whole", "split")
    )
    assert all(torch.equal(whole[name], split[name]) for name in whole)
    assert any(whole[name].abs().max() > 1e-4 for name in whole if "lora_B" in name)
    kinds = [
        [
            event.event
            for event in read_events(tmp_path / name / "events.jsonl")
            if not isinstance(event, ProgressEvent)  # driven by the clock
        ]
        for name in ("whole", "split")
    ]
    assert kinds[0] == kinds[1]
