"""ARRTrainRPO in a real ComfyUI, on the embedded world: train, stop, go on, outlive a killed server."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from comfy_runs import SMALL, listening, node, until
from PIL import Image
from real_comfyui.server import error_of, serving
from safetensors.torch import load_file

from arr_core.config import load_config
from arr_core.training.events import history, read_events


def folder(server, name: str) -> Path:
    return server.base / "output/ARR-RPO/runs" / name


def events(server, name: str) -> list[dict]:
    path = folder(server, name) / "events.jsonl"
    return read_events(path) if path.is_file() else []


def until_update(server, name: str, update: int) -> None:
    until(lambda: history(events(server, name)).update >= update)


@pytest.fixture(scope="module")
def trained(server):
    """The outputs of a run of three updates, whose results feed stock nodes and our loader."""
    graph = {
        "train": node(),
        "model": {"class_type": "TestTinyModel", "inputs": {"family": "embedded flux"}},
        "save": {
            "class_type": "SaveLoRA",
            "inputs": {"lora": ["train", 0], "prefix": "loras/stock"},
        },
        "loss": {
            "class_type": "LossGraphNode",
            "inputs": {"loss": ["train", 1], "filename_prefix": "loss"},
        },
        "stock": {
            "class_type": "LoraModelLoader",
            "inputs": {
                "model": ["model", 0],
                "lora": ["train", 0],
                "strength_model": 1.0,
                "bypass": False,
            },
        },
        "stock change": {
            "class_type": "TestSaveChange",
            "inputs": {"model": ["stock", 0], "name": "stock.safetensors"},
        },
        "ours": {
            "class_type": "ARRLoadAdapter",
            "inputs": {
                "model": ["model", 0],
                "adapter": "run: small",
                "strength": 1.0,
                "alpha": 0.0,
            },
        },
        "our change": {
            "class_type": "TestSaveChange",
            "inputs": {"model": ["ours", 0], "name": "ours.safetensors"},
        },
        "steps": {"class_type": "TestShow", "inputs": {"value": ["train", 2]}},
        "summary": {"class_type": "TestShow", "inputs": {"value": ["train", 4]}},
        "info": {"class_type": "TestShow", "inputs": {"value": ["ours", 2]}},
    }
    # The run that our loader names is not there yet when the graph is checked: a first graph makes it.
    server.run(
        {name: part for name, part in graph.items() if name not in ("ours", "our change", "info")}
    )
    return server.run(graph)


def test_a_training_ends_with_an_adapter_a_loss_and_a_sentence(server, trained):
    assert trained["steps"]["text"] == [3]
    assert (
        "held-out prompts" in trained["summary"]["text"][0]
        and "report.html" in trained["summary"]["text"][0]
    )
    (picture,) = trained["train"]["images"]
    assert Image.open(server.base / picture["type"] / picture["filename"]).width == 960
    assert [event.event for event in events(server, "small")][-1] == "measure"
    assert (server.base / "output/loras/ARR-RPO/small.safetensors").is_file()
    assert load_config(str(folder(server, "small") / "config.yaml")).rollout.steps == 2


def test_the_results_feed_the_stock_nodes(server, trained):
    assert trained["loss"]["images"]
    (saved,) = (server.base / "output/loras").glob("stock*.safetensors")
    assert any(name.endswith("lora_A.weight") for name in load_file(saved))


def test_the_stock_loader_and_ours_change_the_model_alike(server, trained):
    stock, ours = (
        load_file(server.base / "output" / f"{name}.safetensors") for name in ("stock", "ours")
    )
    assert stock.keys() == ours.keys() and any(change.abs().max() > 0 for change in ours.values())
    for key in ours:
        assert (stock[key] - ours[key]).abs().max() < 1e-6
    count = len(
        json.loads((folder(server, "small") / "adapter/adapter_config.json").read_text())[
            "target_modules"
        ]
    )
    assert f"modules matched: {count} of {count}" in trained["info"]["text"][0]


@pytest.mark.parametrize("name", ["(none)", "deleted.safetensors"])
def test_a_connected_run_needs_no_file_that_is_named(server, trained, name):
    graph = {
        "train": node(),
        "model": {"class_type": "TestTinyModel", "inputs": {"family": "embedded flux"}},
        "load": {
            "class_type": "ARRLoadAdapter",
            "inputs": {
                "model": ["model", 0],
                "adapter": name,
                "strength": 1.0,
                "alpha": 0.0,
                "run": ["train", 3],
            },
        },
        "info": {"class_type": "TestShow", "inputs": {"value": ["load", 2]}},
    }
    assert server.run(graph)["info"]["text"] == trained["info"]["text"]


def test_a_finished_run_is_not_started_again_but_can_be_trained_further(server, trained):
    graph = {
        "train": node(run_name="small "),
        "steps": {"class_type": "TestShow", "inputs": {"value": ["train", 2]}},
    }
    begun = sum(event.event == "started" for event in events(server, "small"))
    assert server.run(graph)["steps"]["text"] == [3]
    assert sum(event.event == "started" for event in events(server, "small")) == begun
    graph["train"]["inputs"]["updates"] = 4
    assert server.run(graph)["steps"]["text"] == [4]
    assert [event.update for event in events(server, "small") if event.event == "resumed"] == [3]


def test_a_run_keeps_its_settings(server, trained):
    message = server.fail({"train": node(run_seed=5, updates=9)})
    assert "a resumed run keeps its settings; changed here: run.seed" in message


def test_cancel_finishes_the_update_and_saves_and_run_goes_on(server):
    graph = {"train": node(run_name="stopped", updates=5000)}
    prompt = server.queue(graph)
    until_update(server, "stopped", 1)
    server.http("/interrupt", {})
    assert error_of(server.wait(prompt)) == "interrupted"
    stopped = history(events(server, "stopped"))
    assert stopped.state == "stopped" and stopped.checkpoints[-1].update == stopped.update
    assert not (folder(server, "stopped") / "trainer.pid").exists()
    graph["train"]["inputs"]["updates"] = stopped.update + 2
    graph["steps"] = {"class_type": "TestShow", "inputs": {"value": ["train", 2]}}
    assert server.run(graph)["steps"]["text"] == [stopped.update + 2]
    assert [event.update for event in events(server, "stopped") if event.event == "resumed"] == [
        stopped.update
    ]


def test_a_second_cancel_ends_it_at_once_and_the_last_checkpoint_is_kept(server):
    slow = SMALL.replace("prompts_per_update = 2", "prompts_per_update = 512").replace(
        "micro_batch = 4", "micro_batch = 64"
    )
    prompt = server.queue(
        {
            "train": node(
                run_name="killed", updates=5000, settings=slow.replace("every = 2", "every = 1")
            )
        }
    )
    until_update(server, "killed", 1)
    until(lambda: history(events(server, "killed")).checkpoints)
    server.http("/interrupt", {})
    time.sleep(0.5)
    server.http("/interrupt", {})
    begun = time.monotonic()
    assert error_of(server.wait(prompt)) == "interrupted"
    assert time.monotonic() - begun < 3
    assert history(events(server, "killed")).state == "open"  # it had no time for a last word
    assert (folder(server, "killed") / "checkpoints/1").is_dir()


def test_a_person_who_is_to_judge_is_told_where(server):
    graph = {
        "judge": {
            "class_type": "ARRJudge",
            "inputs": {"profile": "human", "both_orders": True, "check": True, "timeout": 10.0},
        },
        "train": node(run_name="asked", judge=["judge", 0]),
    }
    with listening(server) as heard:
        prompt = server.queue(graph)
        heard(rb"you are the judge: open http://127\.0\.0\.1:\d+/[\w-]+/")
        for _ in range(2):
            server.http("/interrupt", {})
            time.sleep(0.5)
        assert error_of(server.wait(prompt, 30)) == "interrupted"


def test_prompts_come_as_text_as_a_list_and_from_a_file(server):
    (server.base / "input/prompts.txt").write_text(
        "a red circle left of a blue square\ntwo green squares\none red circle\n"
    )
    text = node(
        run_name="text",
        updates=1,
        prompts="a red circle left of a blue square\n\ntwo green squares\none red circle",
    )
    file = node(run_name="file", updates=1, prompts_file="prompts.txt")
    drawn = {
        "class_type": "LossGraphNode",
        "inputs": {"loss": ["text", 1], "filename_prefix": "one"},
    }
    assert "drawn" not in server.run(
        {"text": text, "file": file, "drawn": drawn}
    )  # it cannot draw a single loss
    for name in ("text", "file"):
        started = next(event for event in events(server, name) if event.event == "started")
        assert (started.prompts, started.validation_prompts) == (2, 1)
    changed = node(
        run_name="text", updates=2, prompts="other prompts\nother prompts than before\nand more"
    )
    assert "changed here: data.train" in server.fail({"text": changed})
    (server.base / "input/prompts.txt").write_text(
        "two red circles\ntwo green squares\none red circle\n"
    )
    file["inputs"]["updates"] = 2
    assert "prompts.txt: expected the prompts and images that the run" in server.fail(
        {"file": file}
    )


def test_a_run_that_was_deleted_is_trained_anew(server):
    graph = {"train": node(run_name="gone", updates=1)}
    server.run(graph)
    server.run(graph)
    assert sum(event.event == "started" for event in events(server, "gone")) == 1
    shutil.rmtree(folder(server, "gone"))
    server.run(graph)
    assert history(events(server, "gone")).state == "finished"


def test_one_photo_takes_many_instructions(server):
    Image.linear_gradient("L").convert("RGB").save(server.base / "input/photo.png")
    edits = ["make the red circle blue", "make the blue square red", "make the green circle red"]
    graph = {
        "photo": {"class_type": "LoadImage", "inputs": {"image": "photo.png"}},
        "train": node(
            preset="miniature-edit",
            run_name="photo",
            updates=1,
            images=["photo", 0],
            prompts="\n".join(edits),
        ),
    }
    server.run(graph)
    (file,) = folder(server, "photo").glob("edits-*.jsonl")
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [record["instruction"] for record in records] == edits and len(
        {record["source_image"] for record in records}
    ) == 1


@pytest.mark.parametrize(
    "inputs, words",
    [
        ({"run_name": "../../escape"}, "run_name: expected a name of letters"),
        ({"run_name": "/tmp/escape"}, "run_name: expected a name of letters"),
        ({"run_name": ""}, "run_name: expected a name of letters"),
        ({"prompts_file": "../judges.yaml"}, "leads out of it"),
        ({"prompts_file": "/etc/passwd"}, "leads out of it"),
        ({"start_adapter": "../../../x.safetensors"}, "file of ComfyUI's loras folders"),
        ({"start_adapter": "run: ../x"}, "that is no path"),
        ({"base": "/etc"}, "base: expected a Hugging Face id"),
        ({"base": "../../somewhere"}, "base: expected a Hugging Face id"),
        ({"settings": "run.output_dir = /tmp"}, "run.output_dir cannot be set here"),
        ({"settings": "run.trackers = [wandb]"}, "run.trackers cannot be set here"),
        ({"settings": "judge.rubric = /etc/passwd"}, "judge.rubric cannot be set here"),
        ({"settings": "judge.profile = other"}, "judge.profile cannot be set here"),
        ({"settings": "policy.base = /x"}, "policy.base cannot be set here"),
        ({"settings": "adapter.start = /x"}, "adapter.start cannot be set here"),
        ({"settings": "--resume /x"}, "settings, line 1: expected section.field = value"),
        ({"settings": "rollout.steps = none"}, "--rollout.steps: expected"),
        ({"settings": "rollout.stepz = 3"}, "unknown field; did you mean rollout.steps?"),
        ({"preset": "flux"}, "prompts: expected prompts for the preset flux"),
        (
            {"prompts": "one red circle"},
            "prompts: expected at least two prompts, as one is held out",
        ),
        (
            {"prompts": "one red circle\ntwo red circles", "prompts_file": "any.txt"},
            "expected it or prompts, came both",
        ),
        ({"run_name": "圆" * 80}, "run_name: expected a name of letters"),
        ({"run_name": "con"}, "run_name: expected a name of letters"),
        (
            {"preset": "qwen-image-edit", "prompts": "make it red"},
            "images: expected the images that the instructions",
        ),
    ],
)
def test_wrong_and_hostile_input_is_an_error_that_says_what_to_do(server, inputs, words):
    assert words in server.fail({"train": node(**{"run_name": "refused", **inputs})})
    assert not list(server.base.glob("**/escape*"))


def test_images_of_a_data_file_must_lie_in_comfyuis_folders(server, tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "secret.png")
    record = {"source_image": str(tmp_path / "secret.png"), "instruction": "make it red"}
    (server.base / "input/edits.jsonl").write_text(json.dumps(record))
    message = server.fail(
        {"train": node(preset="qwen-image-edit", run_name="refused", prompts_file="edits.jsonl")}
    )
    assert "expected images in ComfyUI's input or output folder" in message


def test_what_can_be_set_takes_no_path():
    """A field of a later version that takes a path must not slip into what a workflow may say."""
    import ast

    from arr_core.config.schema import TrainConfig

    source = (Path(__file__).resolve().parents[2] / "nodes/run.py").read_text()
    settable = next(
        ast.literal_eval(statement.value)
        for statement in ast.parse(source).body
        if isinstance(statement, ast.Assign) and statement.targets[0].id == "SETTABLE"
    )
    for section, fields in settable.items():
        known = TrainConfig.model_fields[section].annotation.model_fields
        for name in known if fields is None else [field for field in fields if field in known]:
            assert "Path" not in str(known[name].annotation), f"{section}.{name}"


def test_a_killed_server_leaves_no_child_and_loses_nothing(tmp_path):
    graph = {"train": node(run_name="orphan", updates=5000)}
    with serving(tmp_path) as server:
        server.queue(graph)
        until_update(server, "orphan", 1)
        server.stop(signal.SIGKILL)
        until(lambda: history(events(server, "orphan")).state == "stopped", 30)
    reached = history(events(server, "orphan")).update
    fake = tmp_path / "python"  # isolated, as ComfyUI's own is on Windows
    fake.write_text(
        f"#!/bin/sh\ncase \"$*\" in *hungry*) echo 'torch.OutOfMemoryError: CUDA out of memory.'; exit 1;; esac\n"
        f'echo ours >> {tmp_path}/interpreter\nexec {sys.executable} -I "$@"\n'
    )
    fake.chmod(0o755)
    with serving(tmp_path, ARR_PYTHON=str(fake)) as server:
        graph["train"]["inputs"]["updates"] = reached + 1
        server.run(graph)
        assert [event.update for event in events(server, "orphan") if event.event == "resumed"] == [
            reached
        ]
        assert (tmp_path / "interpreter").read_text() == "ours\n"
        message = server.fail({"train": node(run_name="hungry")})
        assert "ran out of memory" in message and "run keeps its settings" in message
