"""The workflows that need no large weights run in a real ComfyUI, as they are sent by the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from doubles.openai_server import brighter
from graphs import SMALL, judge_server, rubric_writer, write_pairs
from PIL import Image

API = Path(__file__).resolve().parents[2] / "workflows/api"


def load(name: str) -> dict:
    return json.loads((API / f"{name}.json").read_text(encoding="utf-8"))


def inputs_of(graph: dict, kind: str) -> list[dict]:
    return [node["inputs"] for node in graph.values() if node["class_type"] == kind]


@pytest.mark.parametrize("version", ["server", "old_server"])
def test_the_demo_trains_an_adapter_with_no_download(version, request):
    server, demo = request.getfixturevalue(version), load("arr_demo_miniature_training")
    inputs_of(demo, "ARRTrainRPO")[0].update(updates=2, settings=SMALL)
    inputs_of(demo, "ARRWinRate")[0].update(limit=2)
    texts = json.dumps(server.run(demo))
    assert (server.base / "output/loras/ARR-RPO/demo.safetensors").is_file()
    assert "held-out prompts" in texts and "demo" in texts


def test_two_images_are_compared(server):
    for name, level in (("example", 200), ("darker", 20)):
        Image.new("RGB", (64, 64), (level,) * 3).save(server.base / f"input/{name}.png")
    comparison = load("arr_compare_two_images")
    first, second = inputs_of(comparison, "LoadImage")
    assert first["image"] == "example.png"
    second["image"] = "darker.png"
    with judge_server(server, brighter, "local") as judge:
        assert "A is preferred" in json.dumps(server.run(comparison))
        assert judge.calls == 3  # the check, and both orders


def test_a_rubric_is_written_from_pairs(server):
    write_pairs(server, "pairs.json")
    writing = load("arr_rubric_from_pairs")
    inputs_of(writing, "ARRJudge")[0]["check"] = False
    inputs_of(writing, "ARRRubricFromPairs")[0]["pairs_file"] = "pairs/pairs.json"
    with judge_server(server, rubric_writer, "local"):
        assert "The picture is dark." in json.dumps(server.run(writing))
