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

from arr_core.training.events import read_events

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
SMALL = [
    "--run.threads",
    "1",
    "--rollout.prompts_per_update",
    "4",
    "--rollout.micro_batch",
    "4",
    "--rollout.steps",
    "4",
    "--validation.every",
    "2",
    "--validation.count",
    "4",
    "--validation.images",
    "2",
    "--run.save_every",
    "2",
]


def start(*words: str, folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "arr_core.train", *words],
        cwd=ROOT,
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def train(*words: str, folder: Path, name: str = "run", small: bool = True) -> tuple[int, str, str]:
    process = start(
        *words,
        *(SMALL if small else ()),
        "--run.output_dir",
        str(folder),
        "--run.name",
        name,
        folder=folder,
    )
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def resume(run: Path, *words: str) -> tuple[int, str, str]:
    process = start("--resume", str(run), *words, folder=run)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def wait_for_update(
    run: Path, update: int, process: subprocess.Popen, seconds: float = 120
) -> None:
    """Return as soon as the run has recorded an update."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        events = read_events(run / "events.jsonl") if (run / "events.jsonl").exists() else []
        if any(event.event == "update" and event.update >= update for event in events):
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    raise AssertionError(f"no update {update} within {seconds} s")


def same_state(a: Path, b: Path) -> None:
    """Weights, Adam's moments, generators, prompt cursor: equal bit for bit."""
    one, other = load_file(a / "weights.safetensors"), load_file(b / "weights.safetensors")
    assert one.keys() == other.keys() and len(one) > 0
    assert all(torch.equal(one[name], other[name]) for name in one)
    states = [torch.load(path / "optimizer.pt", weights_only=True) for path in (a, b)]
    for moments, others in zip(
        states[0]["optimizer"]["state"].values(),
        states[1]["optimizer"]["state"].values(),
        strict=True,
    ):
        assert all(torch.equal(moments[name], others[name]) for name in moments)
    assert torch.equal(states[0]["generators"]["cpu"], states[1]["generators"]["cpu"])
    values = [json.loads((path / "state.json").read_text()) for path in (a, b)]
    assert [value["order"] for value in values][0] == values[1]["order"]


def test_a_run_leaves_a_complete_folder(tmp_path):
    status, out, err = train("miniature", "--run.updates", "2", folder=tmp_path)
    assert status == 0, err
    run = tmp_path / "run"
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
    assert "held-out prompts" in out
    kinds = [event.event for event in read_events(run / "events.jsonl")]
    assert kinds[0] == "started" and kinds.count("update") == 2
    assert {"validation", "checkpoint", "finished", "measure"} <= {*kinds}


@pytest.mark.parametrize(
    "preset, flags",
    [
        (
            "miniature",
            [
                "--objective.algorithm",
                "nft",
                "--adapter.ema_decay",
                "0.5",
                "--adapter.dropout",
                "0.1",
            ],
        ),
        (
            "miniature",
            [
                "--objective.algorithm",
                "rpo",
                "--objective.kl_coefficient",
                "0.01",
                "--objective.optimizer_steps",
                "2",
                "--rollout.sampler",
                "flow",
                "--rollout.eta",
                "0.7",
                "--optimizer.warmup_updates",
                "3",
            ],
        ),
        ("miniature-edit", []),
    ],
)
def test_a_resumed_run_equals_one_that_was_never_stopped_bit_for_bit(tmp_path, preset, flags):
    assert train(preset, *flags, "--run.updates", "4", folder=tmp_path, name="whole")[0] == 0
    assert train(preset, *flags, "--run.updates", "2", folder=tmp_path, name="parts")[0] == 0
    status, _, err = resume(tmp_path / "parts", "--run.updates", "4")
    assert status == 0, err
    same_state(tmp_path / "whole/checkpoints/4", tmp_path / "parts/checkpoints/4")


def test_sigterm_finishes_the_update_saves_and_exits_with_3_and_the_rest_is_as_if_nothing_had_happened(
    tmp_path,
):
    assert train("miniature", "--run.updates", "5", folder=tmp_path, name="whole")[0] == 0
    process = start(
        "miniature",
        *SMALL,
        "--run.updates",
        "5",
        "--run.output_dir",
        str(tmp_path),
        "--run.name",
        "stopped",
        folder=tmp_path,
    )
    wait_for_update(tmp_path / "stopped", 1, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    events = read_events(tmp_path / "stopped" / "events.jsonl")
    assert events[-1].event == "stopped"
    assert (tmp_path / "stopped/checkpoints" / str(events[-1].update)).is_dir()
    assert resume(tmp_path / "stopped")[0] == 0
    same_state(tmp_path / "whole/checkpoints/5", tmp_path / "stopped/checkpoints/5")


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path):
    assert train("miniature", "--run.updates", "4", folder=tmp_path, name="whole")[0] == 0
    process = start(
        "miniature",
        *SMALL,
        "--run.updates",
        "4",
        "--run.output_dir",
        str(tmp_path),
        "--run.name",
        "killed",
        folder=tmp_path,
    )
    wait_for_update(tmp_path / "killed", 3, process)
    process.kill()
    process.communicate()
    status, _, err = resume(tmp_path / "killed")
    assert status == 0, err
    same_state(tmp_path / "whole/checkpoints/4", tmp_path / "killed/checkpoints/4")
    prompts_judged_again = [
        e.judge_calls for e in read_events(tmp_path / "killed/events.jsonl") if e.event == "update"
    ]
    assert prompts_judged_again[-2] == 0, (
        "the third update was judged before the kill; the store remembers"
    )


def one_line_error(err: str) -> str:
    lines = [line for line in err.strip().splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in err, err
    return lines[0]


@pytest.mark.parametrize(
    "words, says",
    [
        (["minature"], "did you mean miniature"),
        (["miniature", "--rollout.stepz", "3"], "did you mean rollout.steps"),
        (["miniature", "--rollout.steps", "many"], "rollout.steps"),
        (["flux"], "data.train"),
        (["miniature", "--policy.base", "nowhere/to/be/found"], "policy.base"),
        (["miniature", "--judge.profile", "nobody"], "nobody"),
        (["--resume", "nowhere"], "config.yaml"),
        ([], "preset"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, words, says):
    status, _, err = (
        train(*words, folder=tmp_path, small=False)
        if words and words[0] != "--resume"
        else (*_plain(words, tmp_path),)
    )
    assert status == 2, err
    assert says in one_line_error(err)


def _plain(words, folder):
    process = start(*words, folder=folder)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_a_folder_that_holds_another_run_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("{}")
    status, _, err = train("miniature", folder=tmp_path)
    assert status == 2 and "--resume" in one_line_error(err)


def test_files_of_the_user_are_checked_before_anything_loads(tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    edits = tmp_path / "edits.jsonl"
    edits.write_text('{"source_image": "gone.png", "instruction": "make it red"}\n')
    for preset, file, says in (
        ("miniature", empty, "empty.txt"),
        ("miniature-edit", edits, "edits.jsonl:1"),
    ):
        status, _, err = train(preset, "--data.train", str(file), folder=tmp_path, name=preset)
        assert status == 2 and says in one_line_error(err)


def test_a_changed_setting_is_refused_on_resume_by_its_name_and_a_damaged_checkpoint_names_the_sound_one(
    tmp_path,
):
    assert train("miniature", "--run.updates", "4", folder=tmp_path)[0] == 0
    run = tmp_path / "run"
    status, _, err = resume(run, "--run.updates", "6", "--optimizer.learning_rate", "0.5")
    assert status == 2 and "optimizer.learning_rate" in one_line_error(err)
    weights = run / "checkpoints/4/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    status, _, err = resume(run, "--run.updates", "6")
    assert status == 2 and "newest sound one is 2" in one_line_error(err)


def test_a_run_finds_its_prompts_from_anywhere_and_goes_on_with_no_others(tmp_path):
    prompts = "".join(
        f"a red circle left of a {colour} square\n"
        for colour in ("blue", "green", "red", "yellow", "purple")
    )
    (tmp_path / "prompts.txt").write_text(prompts)
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "arr_core.train",
            "miniature",
            *SMALL,
            "--data.train",
            "prompts.txt",
            "--data.validation",
            "null",
            "--data.validation_count",
            "2",
            "--run.updates",
            "2",
            "--run.name",
            "run",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    run = tmp_path / "runs/run"
    assert resume(run, "--run.updates", "3")[0] == 0
    moved = run.rename(tmp_path / "runs/renamed")
    assert resume(moved, "--run.updates", "4")[0] == 0
    (tmp_path / "prompts.txt").write_text(prompts.replace("circle", "square"))
    status, _, err = resume(moved, "--run.updates", "5")
    assert status == 2 and "prompts.txt: expected the prompts" in one_line_error(err)


def test_two_processes_make_the_update_of_one_with_twice_the_prompts(tmp_path):
    """gloo on two CPU ranks: prompts are sharded, gradients summed, one rank writes."""
    for algorithm in ("rpo", "nft"):
        words = [
            "miniature",
            *SMALL,
            "--rollout.micro_batch",
            "2",
            "--objective.algorithm",
            algorithm,
            "--rollout.sampler",
            "flow",
            "--rollout.eta",
            "0.7",
            "--run.updates",
            "2",
            "--run.output_dir",
            str(tmp_path),
        ]
        assert _plain([*words, "--run.name", f"one-{algorithm}"], tmp_path)[0] == 0
        _two_processes(*words, "--run.name", f"two-{algorithm}")
        one, two = (
            load_file(tmp_path / f"{name}-{algorithm}/checkpoints/2/weights.safetensors")
            for name in ("one", "two")
        )
        moved = [name for name in one if name.startswith("adapter/") and "lora_B" in name]
        assert all(torch.allclose(one[name], two[name], rtol=1e-3, atol=1e-6) for name in moved)
        assert any(one[name].abs().max() > 1e-4 for name in moved)
        losses = [
            [
                event.loss
                for event in read_events(tmp_path / f"{name}-{algorithm}/events.jsonl")
                if event.event == "update"
            ]
            for name in ("one", "two")
        ]
        assert losses[0] == pytest.approx(
            losses[1], rel=1e-3, abs=1e-6
        )  # of all processes, not of the first


@pytest.mark.parametrize("preset, algorithm", [("miniature", "rpo"), ("miniature-edit", "nft")])
def test_a_base_split_over_two_processes_trains_bit_for_bit_as_a_whole_one(
    tmp_path, preset, algorithm
):
    """FSDP2 on two CPU ranks, which hold different numbers of decided pairs and so have different numbers of calls to make."""
    words = [
        preset,
        *SMALL,
        "--rollout.micro_batch",
        "2",
        "--rollout.eta",
        "0.7",
        "--run.updates",
        "3",
        "--validation.count",
        "5",
        "--objective.algorithm",
        algorithm,
        "--run.output_dir",
        str(tmp_path),
    ]
    for name, split in (("whole", "false"), ("split", "true")):
        _two_processes(
            *words,
            "--run.name",
            name,
            "--policy.sharded",
            split,
            "--policy.gradient_checkpointing",
            split,
        )
    whole, split = (
        load_file(tmp_path / name / "checkpoints/3/weights.safetensors")
        for name in ("whole", "split")
    )
    assert all(torch.equal(whole[name], split[name]) for name in whole)
    assert any(whole[name].abs().max() > 1e-4 for name in whole if "lora_B" in name)
    assert len(read_events(tmp_path / "split/events.jsonl")) == len(
        read_events(tmp_path / "whole/events.jsonl")
    )


def test_one_process_cannot_split_a_base_and_is_told_what_can(tmp_path):
    status, _, err = train("miniature", "--policy.sharded", "true", folder=tmp_path)
    assert status == 2 and "accelerate launch" in one_line_error(err)


def _two_processes(*words: str) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            "2",
            "--standalone",
            "-m",
            "arr_core.train",
            *words,
        ],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
