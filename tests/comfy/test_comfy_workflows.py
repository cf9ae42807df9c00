"""The workflows that need no large weights run in a real ComfyUI, as they are sent by the page; hostile ones do no harm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from comfy_runs import SMALL
from doubles import rubric_model
from doubles.openai_server import OpenAIServer, brighter
from PIL import Image

API = Path(__file__).resolve().parents[2] / "workflows/api"


def graph(name: str) -> dict:
    return json.loads((API / f"{name}.json").read_text(encoding="utf-8"))


def part(graph: dict, kind: str) -> dict:
    """The inputs of the graph's only node of a kind."""
    (node,) = [node for node in graph.values() if node["class_type"] == kind]
    return node["inputs"]


@pytest.mark.parametrize("version", ["server", "old_server"])
def test_the_demo_trains_an_adapter_with_no_download(version, request):
    server, demo = request.getfixturevalue(version), graph("arr_demo_miniature_training")
    part(demo, "ARRTrainRPO").update(updates=2, settings=SMALL)
    part(demo, "ARRWinRate").update(limit=2)
    outputs = server.run(demo, timeout=240)
    assert (server.base / "output/loras/ARR-RPO/demo.safetensors").is_file()
    texts = json.dumps(outputs)
    assert "held-out prompts" in texts and "demo" in texts


def test_two_images_are_compared(server):
    for name, level in (("example", 200), ("darker", 20)):
        Image.new("RGB", (64, 64), (level,) * 3).save(server.base / f"input/{name}.png")
    comparison = graph("arr_compare_two_images")
    first, second = (node for node in comparison.values() if node["class_type"] == "LoadImage")
    second["inputs"]["image"] = "darker.png"
    with OpenAIServer(brighter) as judge:
        (server.base / "judges.yaml").write_text(
            json.dumps({"local": {"url": judge.url, "model": "compared"}})
        )
        outputs = server.run(comparison)
        assert judge.calls == 3  # the check, and both orders
    assert "A is preferred" in json.dumps(outputs)
    assert first["inputs"]["image"] == "example.png"


def test_a_rubric_is_written_from_pairs(server):
    records = []
    for number in range(6):
        for name, level in (("dark", 30 + number), ("bright", 220 + number)):
            Image.new("RGB", (32, 32), (level,) * 3).save(server.base / f"input/{name}{number}.png")
        records.append(
            json.dumps(
                {
                    "prompt": f"cup {number}",
                    "images": [f"dark{number}.png", f"bright{number}.png"],
                    "label_rank": [1, 2],
                }
            )
        )
    (server.base / "input/pairs.jsonl").write_text("\n".join(records))

    def mind(request):
        return rubric_model.answer(
            request.text, request.pictures if "image_url" in json.dumps(request.body) else {}
        )

    writing = graph("arr_rubric_from_pairs")
    part(writing, "ARRJudge")["check"] = False
    with OpenAIServer(mind) as model:
        (server.base / "judges.yaml").write_text(
            json.dumps({"local": {"url": model.url, "model": "mind"}})
        )
        outputs = server.run(writing)
    assert "The picture is dark." in json.dumps(outputs)


@pytest.mark.parametrize(
    "kind, inputs",
    [
        ("ARRTrainRPO", {"run_name": "../../../../tmp/arr-escape"}),
        ("ARRTrainRPO", {"settings": "run.output_dir = /tmp/arr-escape"}),
        ("ARRTrainRPO", {"settings": "judge.profile = http://evil.example/v1"}),
        ("ARRTrainRPO", {"prompts_file": "../../../../../etc/passwd"}),
        ("ARRTrainRPO", {"base": "/root"}),
        ("ARRJudge", {"profile": "http://evil.example/v1?key=x"}),
        ("ARRJudge", {"profile": "../../../etc/passwd"}),
        ("ARRRubric", {"source": "file: ../../../../../etc/passwd"}),
        ("ARRWinRate", {"against": "../../../../../etc/passwd"}),
    ],
)
def test_a_hostile_workflow_is_refused_and_touches_nothing(server, kind, inputs):
    demo = graph("arr_demo_miniature_training")
    part(demo, "ARRTrainRPO").update(updates=1, settings=SMALL, run_name="hostile")
    part(demo, "ARRWinRate")["limit"] = 1
    part(demo, kind).update(inputs)
    if kind == "ARRWinRate":
        part(demo, kind).pop("run")
        part(demo, kind)["adapter"] = "../../../../../etc/passwd"
        demo = {
            number: node
            for number, node in demo.items()
            if node["class_type"] in ("ARRWinRate", "ARRJudge", "ARRRubric")
        }
    message = server.fail(demo)
    assert (
        "expected" in message or "cannot be set here" in message or "leads out of it" in message
    ), message
    assert "root:" not in message  # the content of a file that it named
    assert not Path("/tmp/arr-escape").exists()
