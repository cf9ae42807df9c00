"""The command ``python -m arr_core.evaluate`` on the embedded world: who should win, wins; what is wrong, is one line."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import pytest
import torch

from arr_core.adapters import extract, load_adapter
from arr_core.config.load import load_config
from arr_core.evaluate import main
from arr_core.policies.loading import load_policy
from arr_core.training.events import FinishedEvent, ProgressEvent, read_events

PROMPTS = "miniature --prompts miniature:data/prompts_heldout.txt"


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, encodings, add_adapter):
    """A folder with an adapter that changes nothing to speak of, and one that spoils every image."""
    folder = tmp_path_factory.mktemp("adapters")
    config = load_config("miniature", ["--policy.device", "cpu"])
    policy = load_policy(config.policy, encodings)
    policy.encode([])
    add_adapter(policy, config.adapter, scale=1e-6)
    harmless = extract(policy.transformer, base="miniature")
    harmless.save_universal(folder / "harmless.safetensors")
    spoiled = {
        module: pair._replace(B=torch.randn_like(pair.B))
        for module, pair in harmless.modules.items()
    }
    replace(harmless, modules=spoiled).save_universal(folder / "spoiled.safetensors")
    return folder


def evaluate(output, words: str) -> dict:
    command = f"{PROMPTS} --output {output} --limit 6 --steps 4 --device cpu {words}"
    assert main(shlex.split(command)) == 0
    return json.loads((output / "result.json").read_text())


def test_an_adapter_that_spoils_images_loses_to_the_base(adapters, tmp_path, capsys):
    result = evaluate(tmp_path / "out", f"--adapter {adapters}/spoiled.safetensors")
    assert result["losses"] > result["wins"] and result["win_rate"] < 0.5
    assert result["low"] <= result["win_rate"] <= result["high"]
    assert result["sentence"].startswith("spoiled beats the base in ")
    assert result["sentence"] in capsys.readouterr().out
    report = (tmp_path / "out/report.html").read_text()
    assert "spoiled against the base" in report and report.count("<img") == 12


def test_of_two_adapters_the_better_one_wins_and_the_order_is_the_order_given(adapters, tmp_path):
    good, bad = adapters / "harmless.safetensors", adapters / "spoiled.safetensors"
    result = evaluate(tmp_path / "out", f"--adapter {good} --against {bad}")
    assert result["wins"] > result["losses"] and result["against"] == "spoiled"
    turned = evaluate(tmp_path / "turned", f"--adapter {bad} --against {good}")
    assert (turned["wins"], turned["losses"]) == (result["losses"], result["wins"])


def test_adapters_are_called_as_people_call_them(adapters, tmp_path, monkeypatch):
    good, bad = tmp_path / "ARR-FLUX.1-dev", tmp_path / "mine"
    load_adapter(adapters / "harmless.safetensors").save(good)
    load_adapter(adapters / "spoiled.safetensors").save(bad / "adapter")
    monkeypatch.chdir(bad / "adapter")
    result = evaluate(tmp_path / "out", f"--adapter . --against {good} --limit 2")
    assert (result["name"], result["against"]) == ("mine", "ARR-FLUX.1-dev")


def test_an_adapter_against_itself_is_undecided(adapters, tmp_path):
    same = adapters / "spoiled.safetensors"
    result = evaluate(tmp_path / "out", f"--adapter {same} --against {same} --count 2")
    assert (result["wins"], result["losses"], result["undecided"]) == (0, 0, 12)
    assert result["win_rate"] is None and "the judge decided none" in result["sentence"]


def test_what_was_stopped_goes_on_in_its_folder_and_asks_nothing_twice(adapters, tmp_path):
    """What was made of other settings, or is no whole image, is made again."""
    words = f"--adapter {adapters}/spoiled.safetensors"
    whole = evaluate(tmp_path / "out", words)
    (tmp_path / "out/result.json").unlink()  # as if it had ended just before
    files = sorted((tmp_path / "out/samples").rglob("*.png"))
    files[0].write_bytes(b"half")
    files[1].unlink()
    made = {file: file.stat().st_mtime_ns for file in files[2:]}
    again = evaluate(tmp_path / "out", words)
    assert whole.pop("judge_calls") > 0 and again.pop("judge_calls") == 0
    assert again == whole and len(made) == 10
    assert all(file.stat().st_mtime_ns == time for file, time in made.items())
    (tmp_path / "out/result.json").unlink()
    before = [file.read_bytes() for file in files]
    evaluate(tmp_path / "out", f"{words} --steps 5")
    assert all(file.read_bytes() != old for file, old in zip(files, before, strict=True))


def test_events_say_how_far_it_is(adapters, tmp_path):
    adapter = adapters / "harmless.safetensors"
    result = evaluate(tmp_path / "out", f"--adapter {adapter} --micro-batch 4")
    events = read_events(tmp_path / "out/events.jsonl")
    progress = [
        (event.stage, event.done, event.total)
        for event in events
        if isinstance(event, ProgressEvent)
    ]
    for stage in ("second images", "first images"):
        assert [step for step in progress if step[0] == stage] == [(stage, n, 6) for n in (0, 4, 6)]
    assert progress[-1] == ("verdicts", 6, 6) and isinstance(events[-1], FinishedEvent)
    assert load_adapter(adapter).content_hash == result["adapter"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "arguments are required: SOURCE"),
        ("miniature", "--prompts: expected prompts, got none"),
        (PROMPTS, "--adapter: expected an adapter, got none"),
        (f"{PROMPTS} --adapter gone", "nothing; check the path"),
        (f"{PROMPTS} --adapter GOOD --against gone", "nothing; check the path"),
        (f"{PROMPTS} --adapter GOOD --judge nobody", "expected one of"),
        (f"{PROMPTS} --adapter GOOD --rubric gone.txt", "expected a rubric"),
        (f"{PROMPTS} --adapter GOOD --output old", "got one of another evaluation"),
    ],
)
def test_bad_input_is_one_line(adapters, tmp_path, capsys, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").mkdir()
    (tmp_path / "old/result.json").touch()
    words = words.replace("GOOD", str(adapters / "harmless.safetensors"))
    try:
        status = main(shlex.split(words))
    except SystemExit as end:
        status = end.code
    line = capsys.readouterr().err.strip()
    assert status == 2 and line.count("\n") == 0 and said in line, line
