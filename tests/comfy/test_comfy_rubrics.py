"""Rubrics that are written, in a real ComfyUI, over real HTTP; the model is a small mind that sees brightness."""

from __future__ import annotations

import json

import pytest
from comfy_runs import until
from doubles import rubric_model
from doubles.openai_server import OpenAIServer, Reply
from PIL import Image
from real_comfyui.server import error_of

PROMPTS = [f"a cup, number {number}" for number in range(6)]


def mind(request) -> str:
    """The reply of the small mind to a request over HTTP."""
    return rubric_model.answer(
        request.text, request.pictures if "image_url" in json.dumps(request.body) else {}
    )


@pytest.fixture
def pairs_file(server):
    """Pairs in ComfyUI's input folder, of which people liked the darker one."""
    folder = server.base / "input/pairs"
    folder.mkdir(exist_ok=True)
    records = []
    for number, prompt in enumerate(PROMPTS):
        names = [f"{number}-{light}.png" for light in ("dark", "bright")]
        for name, level in zip(names, (30 + number, 220 + number), strict=True):
            Image.new("RGB", (32, 32), (level,) * 3).save(folder / name)
        records.append({"prompt": prompt, "images": names, "label_rank": [1, 2]})
    (folder / "pairs.json").write_text(json.dumps(records))
    return "pairs/pairs.json"


def graph(node: str, **inputs) -> dict:
    common = {"judge": ["judge", 0], "task": "text to image", "language": "English"}
    return {
        "judge": {
            "class_type": "ARRJudge",
            "inputs": {"profile": "writer", "both_orders": True, "check": False, "timeout": 5.0},
        },
        "rubric": {"class_type": node, "inputs": {**common, **inputs}},
        "text": {"class_type": "TestShow", "inputs": {"value": ["rubric", 1]}},
    }


def from_pairs(pairs_file: str, **inputs) -> dict:
    return graph(
        "ARRRubricFromPairs",
        pairs_file=pairs_file,
        **{"save_as": "dark", "keep": "only if it helps", **inputs},
    )


def connect(server, url: str) -> None:
    (server.base / "judges.yaml").write_text(json.dumps({"writer": {"url": url, "model": "mind"}}))


def test_a_rubric_from_pairs_is_verified_saved_and_offered(server, pairs_file):
    with OpenAIServer(mind) as model:
        connect(server, model.url)
        outputs = server.run(from_pairs(pairs_file))
        assert "The picture is dark." in outputs["text"]["text"][0]
        calls = model.calls
        more = json.loads((server.base / "input" / pairs_file).read_text())
        (server.base / "input" / pairs_file).write_text(
            json.dumps([*more, {**more[0], "prompt": "a cup that came later"}])
        )
        server.run(from_pairs(pairs_file))
        assert model.calls > calls, "a pair that was added is read"
        calls = model.calls
        (server.base / "output/ARR-RPO/rubrics/dark.json").unlink()
        server.run(from_pairs(pairs_file, save_as="dark "))
        assert model.calls == calls, "an answered question was paid twice"
    source = server.http("/object_info/ARRRubric")[1]["ARRRubric"]["input"]["required"]["source"]
    assert "saved: dark" in json.dumps(source)


def test_a_rubric_that_does_not_help_is_an_error_unless_it_is_wanted(server, pairs_file):
    records = json.loads((server.base / "input" / pairs_file).read_text())
    for record in records:
        record["label_rank"] = [
            2,
            1,
        ]  # the brighter one, which the model prefers without being told
    (server.base / "input/pairs/bright.json").write_text(json.dumps(records))
    with OpenAIServer(mind) as model:
        connect(server, model.url)
        assert "choose 'in any case'" in server.fail(
            from_pairs("pairs/bright.json", save_as="bright")
        )
        outputs = server.run(from_pairs("pairs/bright.json", save_as="bright", keep="in any case"))
    assert "The picture is bright." in outputs["text"]["text"][0]


def test_cancel_ends_the_writing_and_run_goes_on_where_it_was(server, pairs_file):
    def slow(request):
        model.pause(0.3)
        return mind(request)

    with OpenAIServer(slow) as model:
        connect(server, model.url)
        prompt = server.queue(from_pairs(pairs_file, save_as="stopped"))
        until(lambda: model.calls >= 2)
        server.http("/interrupt", {})
        assert error_of(server.wait(prompt, 20)) == "interrupted"
    with OpenAIServer(mind) as model:
        connect(server, model.url)
        server.run(from_pairs(pairs_file, save_as="stopped"))


@pytest.mark.parametrize(
    "graph_of",
    [
        lambda pairs: from_pairs(pairs, save_as="hung"),
        lambda pairs: graph("ARRRubricFromPrompt", description="a bright morning", save_as="hung"),
    ],
    ids=["pairs", "description"],
)
def test_cancel_is_heard_while_a_server_says_nothing(server, pairs_file, graph_of):
    with OpenAIServer([Reply(mind, delay_s=40)]) as model:
        connect(server, model.url)
        prompt = server.queue(graph_of(pairs_file))
        until(lambda: model.calls >= 1)
        server.http("/interrupt", {})
        assert error_of(server.wait(prompt, 5)) == "interrupted"


def test_a_rubric_is_written_from_a_description(server):
    with OpenAIServer(mind) as model:
        connect(server, model.url)
        outputs = server.run(
            graph("ARRRubricFromPrompt", description="a bright morning", save_as="morning")
        )
        assert "a bright morning" in model.requests[0].text
    assert outputs["text"]["text"][0].startswith("1. ")
    assert (server.base / "output/ARR-RPO/rubrics/morning.json").is_file()


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: from_pairs("(none)"), "pairs_file: expected a file of labelled pairs"),
        (lambda: from_pairs("../judges.yaml"), "leads out of it"),
        (lambda: from_pairs("pairs/pairs.json", save_as="../../x"), "that is no path"),
        (
            lambda: from_pairs("pairs/outside.json"),
            "expected images in ComfyUI's input or output folder",
        ),
        (lambda: graph("ARRRubricFromPrompt", description="x", save_as="/x"), "that is no path"),
        (
            lambda: graph("ARRRubricFromPrompt", description=" ", save_as=""),
            "expected a task description",
        ),
    ],
)
def test_wrong_and_hostile_input_is_an_error(server, pairs_file, tmp_path, make, words):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    record = {
        "prompt": "x",
        "images": [str(tmp_path / "a.png"), "0-dark.png"],
        "label_rank": [1, 2],
    }
    (server.base / "input/pairs/outside.json").write_text(json.dumps([record]))
    connect(server, "http://127.0.0.1:9/v1")
    assert words in server.fail(make())


def test_a_judge_that_writes_no_text_says_so(server):
    broken = graph("ARRRubricFromPrompt", description="x", save_as="")
    broken["judge"]["inputs"]["profile"] = "miniature"
    assert "which writes no text" in server.fail(broken)
