"""ARRWinRate in a real ComfyUI, on the embedded world."""

from __future__ import annotations

from pathlib import Path

import pytest
from comfy_runs import SMALL, node
from PIL import Image


def graph(**inputs) -> dict:
    rate = {
        "class_type": "ARRWinRate",
        "inputs": {
            "preset": "miniature",
            "adapter": "(none)",
            "against": "(the base)",
            "prompts": "",
            "prompts_file": "(none)",
            "limit": 4,
            "seeds": 1,
            "base": "",
            "first_seed": 0,
            "steps": 4,
            **inputs,
        },
    }
    shown = {
        name: {"class_type": "TestShow", "inputs": {"value": ["rate", at]}}
        for at, name in enumerate(("win_rate", "low", "high", "plot", "summary", "report"))
        if name != "plot"
    }
    return {"rate": rate, **shown}


def test_a_run_is_compared_with_its_base_and_with_another_adapter(server):
    train = node(run_name="compared", updates=2, settings=SMALL + "optimizer.learning_rate = 1e-2")
    outputs = server.run({"train": train, **graph(run=["train", 3])})
    (low,), (rate,), (high,) = (outputs[name]["text"] for name in ("low", "win_rate", "high"))
    assert 0 <= low <= rate <= high <= 1
    assert (
        "compared" in outputs["summary"]["text"][0] and Path(outputs["report"]["text"][0]).is_file()
    )
    (picture,) = outputs["rate"]["images"]
    assert Image.open(server.base / picture["type"] / picture["filename"]).width == 960
    outputs = server.run(
        graph(
            adapter="run: compared",
            against="run: compared",
            prompts="one red circle\ntwo green squares",
        )
    )
    assert outputs["win_rate"]["text"] == [0.5] and "decided none" in outputs["summary"]["text"][0]


def test_an_adapter_that_was_trained_further_is_measured_again(server):
    train = {"train": node(run_name="measured", updates=1)}
    server.run(train)
    measured = graph(adapter="run: measured", limit=2)
    first, same = (server.run(measured)["report"]["text"] for _ in range(2))
    train["train"]["inputs"]["updates"] = 2
    server.run(train)
    assert first == same != server.run(measured)["report"]["text"]


@pytest.mark.parametrize(
    "inputs, words",
    [
        ({"adapter": "run: compared", "prompts": "x", "prompts_file": "y.txt"}, "came both"),
        ({}, "adapter: expected an adapter to compare, came none"),
        ({"adapter": "../../x.safetensors"}, "file of ComfyUI's loras folders"),
        ({"adapter": "run: compared", "prompts_file": "../judges.yaml"}, "leads out of it"),
        ({"adapter": "run: compared", "against": "/etc/passwd"}, "file of ComfyUI's loras folders"),
        ({"adapter": "run: compared", "preset": "flux"}, "prompts: expected prompts, came none"),
        ({"adapter": "run: compared", "base": "/etc"}, "base: expected a Hugging Face id"),
    ],
)
def test_wrong_and_hostile_input_is_an_error(server, inputs, words):
    assert words in server.fail(graph(**inputs))
