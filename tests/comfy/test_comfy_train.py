"""ARRTrainRPO in a real ComfyUI, on the embedded world: train, stop, go on, outlive a killed server."""

from __future__ import annotations

import ast
import json
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from doubles.openai_server import HANG, brighter
from graphs import SMALL, judge, judge_server, listening, training, until
from PIL import Image
from real_comfyui.server import error_of, serving
from safetensors.torch import load_file

from arr_core.common.lock import TRAINER, locked
from arr_core.config.load import load_config
from arr_core.training.events import (
    Event,
    History,
    MeasureEvent,
    StartedEvent,
    history,
    read_events,
)

PROMPTS = "a red circle left of a blue square\n\ntwo green squares\none red circle"


def folder(server, name: str) -> Path:
    return server.base / "output/ARR-RPO/runs" / name


def events(server, name: str) -> list[Event]:
    path = folder(server, name) / "events.jsonl"
    return read_events(path) if path.is_file() else []


def run_of(server, name: str) -> History:
    return history(events(server, name))


def starts(server, name: str) -> int:
    return sum(isinstance(event, StartedEvent) for event in events(server, name))


def resumed_at(server, name: str) -> list[int]:
    return [event.update for event in run_of(server, name).resumed]


def until_update(server, name: str, update: int) -> None:
    until(lambda: run_of(server, name).update >= update)


@pytest.fixture(scope="module")
def trained(server):
    """The outputs of a run of three updates, whose results feed stock nodes and our loader."""
    graph = {
        "train": training(server),
        "model": server.node("TestTinyModel", family="flux"),
        "loss": server.node("LossGraphNode", loss=["train", 1], filename_prefix="loss"),
        "stock": server.node("LoraModelLoader", model=["model", 0], lora=["train", 0]),
        "change": server.node("TestSaveChange", model=["stock", 0], name="stock.safetensors"),
        "steps": server.node("TestShow", value=["train", 2]),
    }
    server.run(graph)
    # Only now is there a run that our loader can name.
    for name in ("run: small", "(none)", "deleted.safetensors"):
        run = {} if name == "run: small" else {"run": ["train", 3]}
        graph[name] = server.node("ARRLoadAdapter", model=["model", 0], adapter=name, **run)
    return server.run(graph)


def test_a_training_ends_with_an_adapter_a_loss_and_a_sentence(server, trained):
    assert trained["steps"]["text"] == [3]
    (summary,) = trained["train"]["text"]
    assert "held-out prompts" in summary and "report.html" in summary
    (picture,) = trained["train"]["images"]
    assert Image.open(server.base / picture["type"] / picture["filename"]).width == 960
    assert isinstance(events(server, "small")[-1], MeasureEvent)
    assert (server.base / "output/loras/ARR-RPO/small.safetensors").is_file()
    assert load_config(str(folder(server, "small") / "config.yaml")).rollout.steps == 2


def test_the_results_feed_the_stock_nodes(server, trained):
    assert trained["loss"]["images"]
    changes = load_file(server.base / "output/stock.safetensors")
    assert any(change.abs().max() > 0 for change in changes.values())


def test_a_run_is_loaded_by_its_name_and_when_connected_needs_none(server, trained):
    peft = json.loads((folder(server, "small") / "adapter/adapter_config.json").read_text())
    count = len(peft["target_modules"])
    named, *connected = (
        trained[name]["text"] for name in ("run: small", "(none)", "deleted.safetensors")
    )
    assert f"modules matched: {count} of {count}" in named[0] and connected == [named, named]


def test_a_finished_run_is_not_started_again_but_can_be_trained_further(server, trained):
    graph = {"train": training(server, run_name="small ")}
    before = starts(server, "small")
    assert server.show(graph, "train", 2) == [[3]]
    assert starts(server, "small") == before
    graph["train"]["inputs"]["updates"] = 4
    assert server.show(graph, "train", 2) == [[4]]
    assert resumed_at(server, "small") == [3]
    changed = server.fail({"train": training(server, run_seed=5, updates=9)})
    assert "a resumed run keeps its settings; changed here: run.seed" in changed


def test_cancel_finishes_the_update_and_saves_and_run_goes_on(server):
    graph = {"train": training(server, run_name="stopped", updates=5000)}
    prompt = server.queue(graph)
    until_update(server, "stopped", 1)
    server.http("/interrupt", {})
    assert error_of(server.wait(prompt)) == "interrupted"
    stopped = run_of(server, "stopped")
    assert stopped.state == "stopped" and stopped.checkpoints[-1].update == stopped.update
    with locked(folder(server, "stopped") / TRAINER) as holder:
        assert not holder
    graph["train"]["inputs"]["updates"] = stopped.update + 2
    assert server.show(graph, "train", 2) == [[stopped.update + 2]]
    assert resumed_at(server, "stopped") == [stopped.update]


def test_a_second_cancel_ends_it_at_once_and_the_last_checkpoint_is_kept(server):
    checkpoint = folder(server, "killed") / "checkpoints/1"

    def hangs_in_the_second_update(request):
        return HANG if checkpoint.is_dir() else brighter(request)

    settings = SMALL.replace("save_every = 2", "save_every = 1")
    with (
        judge_server(server, hangs_in_the_second_update, "hangs") as network,
        listening(server) as heard,
    ):
        graph = {
            "judge": judge(server, "hangs", timeout=600.0),
            "train": training(server, run_name="killed", judge=["judge", 0], settings=settings),
        }
        prompt = server.queue(graph)
        until(lambda: checkpoint.is_dir() and network.in_flight)
        server.http("/interrupt", {})
        heard(rb"Cancel again ends it at once")
        server.http("/interrupt", {})
        assert error_of(server.wait(prompt)) == "interrupted"
    assert run_of(server, "killed").state == "open"  # it had no time to record its end
    assert checkpoint.is_dir()


def test_a_person_who_is_to_judge_is_told_where(server):
    graph = {
        "judge": judge(server, "human", check=True),
        "train": training(server, run_name="asked", judge=["judge", 0]),
    }
    with listening(server) as heard:
        prompt = server.queue(graph)
        heard(rb"you are the judge: open http://127\.0\.0\.1:\d+/[\w-]+/")
        for _ in range(2):
            server.http("/interrupt", {})
            time.sleep(0.5)
        assert error_of(server.wait(prompt, 30)) == "interrupted"


def test_prompts_come_as_text_and_from_a_file_and_must_stay(server):
    (server.base / "input/prompts.txt").write_text(PROMPTS)
    graph = {
        "text": training(server, run_name="text", updates=1, prompts=PROMPTS),
        "file": training(server, run_name="file", updates=1, prompts_file="prompts.txt"),
    }
    # A single loss cannot be drawn.
    drawn = server.node("LossGraphNode", loss=["text", 1], filename_prefix="one")
    assert "drawn" not in server.run({**graph, "drawn": drawn})
    for name in graph:
        started = run_of(server, name).started
        assert (started.prompts, started.validation_prompts) == (2, 1)
    graph["text"]["inputs"] |= {"updates": 2, "prompts": "other prompts\nthan before\nand more"}
    assert "changed here: data.train" in server.fail({"text": graph["text"]})
    (server.base / "input/prompts.txt").write_text(PROMPTS.replace("a red", "a green"))
    graph["file"]["inputs"]["updates"] = 2
    message = server.fail({"file": graph["file"]})
    assert "prompts.txt: expected the prompts and images that the run" in message


def test_a_run_that_was_deleted_is_trained_anew(server):
    graph = {"train": training(server, run_name="gone", updates=1)}
    server.run(graph)
    server.run(graph)
    assert starts(server, "gone") == 1
    shutil.rmtree(folder(server, "gone"))
    server.run(graph)
    assert run_of(server, "gone").state == "finished"


def test_one_photo_takes_many_instructions(server):
    Image.linear_gradient("L").convert("RGB").save(server.base / "input/photo.png")
    edits = ["make the red circle blue", "make the blue square red", "make the green circle red"]
    inputs = {"preset": "miniature-edit", "images": ["photo", 0], "prompts": "\n".join(edits)}
    server.run(
        {
            "photo": server.node("LoadImage", image="photo.png"),
            "train": training(server, run_name="photo", updates=1, **inputs),
        }
    )
    (file,) = folder(server, "photo").glob("edits-*.jsonl")
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [record["instruction"] for record in records] == edits
    assert len({record["source_image"] for record in records}) == 1


NAME = "run_name: expected a name of letters"


@pytest.mark.parametrize(
    "inputs, words",
    [
        ({"run_name": "../../escape"}, NAME),
        ({"run_name": ""}, NAME),
        ({"run_name": "圆" * 80}, NAME),
        ({"run_name": "con"}, NAME),
        ({"prompts_file": "/etc/passwd"}, "file in ComfyUI's input folder"),
        ({"start_adapter": "../../../x.safetensors"}, "file of ComfyUI's loras folders"),
        ({"start_adapter": "run: ../x"}, "that is no path"),
        ({"base": "/etc"}, "base: expected a Hugging Face id"),
        ({"settings": "run.output_dir = /tmp/arr-escape"}, "run.output_dir cannot be set here"),
        ({"settings": "judge.profile = http://x/v1"}, "judge.profile cannot be set here"),
        ({"settings": "--resume /x"}, "settings, line 1: expected section.field = value"),
        ({"settings": "rollout.stepz = 3"}, "unknown field; did you mean rollout.steps?"),
        ({"preset": "flux"}, "prompts: expected prompts for the preset flux"),
        ({"prompts": "one red circle"}, "at least two prompts, as one is held out"),
        ({"prompts": PROMPTS, "prompts_file": "any.txt"}, "expected it or prompts, got both"),
        ({"preset": "qwen-image-edit", "prompts": "make it red"}, "with their source images"),
    ],
)
def test_wrong_and_hostile_input_is_an_error_that_says_what_to_do(server, inputs, words):
    message = server.fail({"train": training(server, **{"run_name": "refused", **inputs})})
    assert words in message and "root:" not in message  # the content of a file that it named
    assert not list(server.base.glob("**/*escape*")) and not Path("/tmp/arr-escape").exists()


def test_images_of_a_data_file_must_lie_in_comfyuis_folders(server, tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "secret.png")
    record = {"source_image": str(tmp_path / "secret.png"), "instruction": "make it red"}
    (server.base / "input/edits.jsonl").write_text(json.dumps(record))
    inputs = {"preset": "qwen-image-edit", "run_name": "refused", "prompts_file": "edits.jsonl"}
    message = server.fail({"train": training(server, **inputs)})
    assert "expected an image in the folder of the data file" in message


def test_what_can_be_set_takes_no_path():
    """A field of a later version that takes a path must not become settable by a workflow."""
    from arr_core.config.schema import TrainConfig

    source = (Path(__file__).resolve().parents[2] / "nodes/run.py").read_text()
    settable = next(
        ast.literal_eval(statement.value)
        for statement in ast.parse(source).body
        if isinstance(statement, ast.Assign) and statement.targets[0].id == "SETTABLE"
    )
    for section, fields in settable.items():
        known = TrainConfig.model_fields[section].annotation.model_fields
        for name in known if fields is None else fields:
            assert "Path" not in str(known[name].annotation), f"{section}.{name}"


def test_a_killed_server_leaves_no_child_and_loses_nothing(tmp_path):
    with serving(tmp_path) as server:
        graph = {"train": training(server, run_name="orphan", updates=5000)}
        server.queue(graph)
        until_update(server, "orphan", 1)
        server.stop(signal.SIGKILL)
        until(lambda: run_of(server, "orphan").state == "stopped")
    reached = run_of(server, "orphan").update
    fake = tmp_path / "python"  # isolated, as ComfyUI's own is on Windows
    fake.write_text(
        f"#!/bin/sh\ncase \"$*\" in *hungry*) echo 'torch.OutOfMemoryError: CUDA out of memory.'; exit 1;; esac\n"
        f'echo ours >> {tmp_path}/interpreter\nexec {sys.executable} -I "$@"\n'
    )
    fake.chmod(0o755)
    with serving(tmp_path, ARR_PYTHON=str(fake)) as server:
        graph["train"]["inputs"]["updates"] = reached + 1
        server.run(graph)
        assert resumed_at(server, "orphan") == [reached]
        assert (tmp_path / "interpreter").read_text() == "ours\n"
        message = server.fail({"train": training(server, run_name="hungry")})
        assert "ran out of memory" in message and "run keeps its settings" in message
