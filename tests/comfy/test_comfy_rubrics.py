"""Rubrics that are written, in a real ComfyUI, over real HTTP; the model is a double that sees brightness."""

from __future__ import annotations

import json

import pytest
from doubles.openai_server import Reply
from graphs import judge, judge_server, rubric_writer, until, write_pairs, write_profiles
from PIL import Image
from real_comfyui.server import error_of


def graph(server, node: str, profile: str = "box", **inputs) -> dict:
    return {
        "judge": judge(server, profile),
        "rubric": server.node(node, judge=["judge", 0], **inputs),
    }


def from_pairs(server, file: str, save_as: str, **inputs) -> dict:
    fields = {"pairs_file": f"pairs/{file}", "save_as": save_as, **inputs}
    return graph(server, "ARRRubricFromPairs", **fields)


def from_prompt(server, description: str, save_as: str = "", **inputs) -> dict:
    fields = {"description": description, "save_as": save_as, **inputs}
    return graph(server, "ARRRubricFromPrompt", **fields)


def test_a_rubric_from_pairs_is_verified_saved_and_offered(server):
    pairs = write_pairs(server, "pairs.json")
    with judge_server(server, rubric_writer) as model:
        outputs = server.run(from_pairs(server, "pairs.json", "dark"))
        assert "The picture is dark." in outputs["rubric"]["text"][0]
        calls = model.calls
        pairs.append({**pairs[0], "prompt": "a cup that was added"})
        (server.base / "input/pairs/pairs.json").write_text(json.dumps(pairs))
        server.run(from_pairs(server, "pairs.json", "dark"))
        assert model.calls > calls, "a pair that was added is read"
        calls = model.calls
        (server.base / "output/ARR-RPO/rubrics/dark.json").unlink()
        server.run(from_pairs(server, "pairs.json", "dark "))
        assert model.calls == calls, "an answered question was paid twice"
    assert "saved: dark" in json.dumps(server.http("/object_info/ARRRubric")[1])


def test_a_rubric_that_does_not_help_is_an_error_unless_it_is_wanted(server):
    """The double prefers the brighter image without being told."""
    write_pairs(server, "bright.json", preferred="bright")
    with judge_server(server, rubric_writer):
        message = server.fail(from_pairs(server, "bright.json", "bright"))
        assert "choose 'in any case'" in message
        outputs = server.run(from_pairs(server, "bright.json", "bright", keep="in any case"))
    assert "The picture is bright." in outputs["rubric"]["text"][0]


@pytest.mark.parametrize("node", ["ARRRubricFromPairs", "ARRRubricFromPrompt"])
def test_cancel_is_heard_while_a_server_says_nothing_and_run_goes_on(server, node):
    write_pairs(server, "asked.json", thing="jug")  # else the shared store knows the answers
    given = {"pairs_file": "pairs/asked.json"} if "Pairs" in node else {"description": "a morning"}
    hung = graph(server, node, save_as="hung", **given)
    with judge_server(server, [Reply(rubric_writer, delay_s=40)]) as model:
        prompt = server.queue(hung)
        until(lambda: model.calls)
        server.http("/interrupt", {})
        assert error_of(server.wait(prompt, 20)) == "interrupted"
    with judge_server(server, rubric_writer):
        server.run(hung)


def test_a_rubric_is_written_from_a_description(server):
    with judge_server(server, rubric_writer) as model:
        outputs = server.run(from_prompt(server, "a bright morning", "morning"))
        assert "a bright morning" in model.requests[0].text
    assert outputs["rubric"]["text"][0].startswith("1. ")
    assert (server.base / "output/ARR-RPO/rubrics/morning.json").is_file()


@pytest.mark.parametrize(
    "node, inputs, words",
    [
        (from_pairs, {"pairs_file": "(none)"}, "pairs_file: expected a file of labelled pairs"),
        (from_pairs, {"pairs_file": "../judges.yaml"}, "file in ComfyUI's input folder"),
        (from_pairs, {"save_as": "../../x"}, "that is no path"),
        (from_pairs, {"file": "outside.json"}, "an image in the folder of the data file"),
        (from_prompt, {"save_as": "/x"}, "that is no path"),
        (from_prompt, {"description": " "}, "expected a task description"),
        (from_prompt, {"profile": "miniature"}, "which writes no text"),
    ],
)
def test_wrong_and_hostile_input_is_an_error(server, tmp_path, node, inputs, words):
    pairs = write_pairs(server, "pairs.json")
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    outside = {**pairs[0], "images": [str(tmp_path / "a.png"), "0-dark.png"]}
    (server.base / "input/pairs/outside.json").write_text(json.dumps([outside]))
    write_profiles(server, box={"url": "http://127.0.0.1:9/v1", "model": "m"})
    given = {"file": "pairs.json", "save_as": "x"} if node is from_pairs else {"description": "x"}
    assert words in server.fail(node(server, **{**given, **inputs}))
