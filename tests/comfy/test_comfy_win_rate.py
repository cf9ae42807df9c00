"""ARRWinRate in a real ComfyUI, on the embedded world."""

from __future__ import annotations

from pathlib import Path

import pytest
from graphs import SMALL, training
from PIL import Image


def graph(server, **inputs) -> dict:
    return {"rate": server.node("ARRWinRate", **{"limit": 4, "steps": 4, **inputs})}


def test_a_run_is_compared_with_its_base_and_with_another_adapter(server):
    settings = SMALL + "optimizer.learning_rate = 1e-2"
    train = training(server, run_name="compared", updates=2, settings=settings)
    with_run = {"train": train, **graph(server, run=["train", 3])}
    (rate,), (low,), (high,), (summary,), (report,) = server.show(with_run, "rate", 0, 1, 2, 4, 5)
    assert 0 <= low <= rate <= high <= 1
    assert "compared" in summary and Path(report).is_file()
    inputs = {"adapter": "run: compared", "against": "run: compared"}
    equal = graph(server, **inputs, prompts="one red circle\ntwo green squares")
    outputs = server.run({**equal, "value": server.node("TestShow", value=["rate", 0])})
    assert outputs["value"]["text"] == [0.5] and "decided none" in outputs["rate"]["text"][0]
    (picture,) = outputs["rate"]["images"]
    assert Image.open(server.base / picture["type"] / picture["filename"]).width == 960


def test_an_adapter_that_was_trained_further_is_measured_again(server):
    train = {"train": training(server, run_name="measured", updates=1)}
    server.run(train)
    measured = graph(server, adapter="run: measured", limit=2)
    first, same = (server.show(measured, "rate", 5) for _ in range(2))
    train["train"]["inputs"]["updates"] = 2
    server.run(train)
    assert first == same != server.show(measured, "rate", 5)


RUN = {"adapter": "run: compared"}


@pytest.mark.parametrize(
    "inputs, words",
    [
        ({**RUN, "prompts": "x", "prompts_file": "y.txt"}, "expected it or prompts, got both"),
        ({}, "adapter: expected an adapter to compare, got none"),
        ({"adapter": "../../x.safetensors"}, "file of ComfyUI's loras folders"),
        ({**RUN, "prompts_file": "../judges.yaml"}, "file in ComfyUI's input folder"),
        ({**RUN, "against": "/etc/passwd"}, "file of ComfyUI's loras folders"),
        ({**RUN, "preset": "flux"}, "prompts: expected prompts, got none"),
        ({**RUN, "base": "/etc"}, "base: expected a Hugging Face id"),
    ],
)
def test_wrong_and_hostile_input_is_an_error(server, inputs, words):
    assert words in server.fail(graph(server, **inputs))
