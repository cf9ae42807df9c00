"""Rubrics, judges and comparisons in a real ComfyUI; the judge is the embedded one, or a server that is scripted."""

from __future__ import annotations

import json
import random
import re
import urllib.request

import pytest
from doubles.openai_server import OpenAIServer, Reply, brighter, error, verdict
from graphs import judge, judge_server, listening, until, write_profiles
from PIL import Image

from arr_core.judging.profiles import BUILT_IN as BUILT_IN_PROFILES
from arr_core.miniature.world import parse_prompt
from arr_core.rubrics import BUILT_IN, Rubric
from tools.miniature.scenes import place, render

PROMPT, OTHER = "a red circle left of a blue square", "a green triangle above a purple circle"
KEY = "sk-a-key-that-nobody-may-see"
EVERYTHING = ["reasons", "reward_a", "reward_b", "decided", "winner"]


@pytest.fixture(scope="module")
def pictures(server):
    """Files in ComfyUI's input folder: what the prompt asks for, something else, and two plain ones."""
    folder = server.base / "input"
    for name, prompt in (("right", PROMPT), ("wrong", OTHER)):
        render(place(parse_prompt(prompt), random.Random(0))).save(folder / f"{name}.png")
    for name in ("white", "black"):
        Image.new("RGB", (48, 32), name).save(folder / f"{name}.png")
    return folder


def images(server, *batches: str) -> dict:
    """Nodes that give batches of files; "a+b" is a batch of two."""
    nodes = {}
    for batch in batches:
        joined, *more = batch.split("+")
        for name in {joined, *more}:
            nodes[name] = server.node("LoadImage", image=f"{name}.png")
        for name in more:
            inputs = {"image1": [joined, 0], "image2": [name, 0]}
            joined = f"{joined}+{name}"
            nodes[joined] = server.node("ImageBatch", **inputs)
    return nodes


def comparison(server, a: str, b: str, profile: str = "miniature", check=False, **inputs) -> dict:
    graph = {
        **images(server, a, b),
        "judge": judge(server, profile, check),
        "pair": server.node(
            "ARRJudgePair",
            image_a=[a, 0],
            image_b=[b, 0],
            prompt=PROMPT,
            judge=["judge", 0],
            **inputs,
        ),
    }
    for slot, name in enumerate(EVERYTHING, 3):
        graph[name] = server.node("TestShow", value=["pair", slot])
    for slot, name in enumerate(("preferred", "dispreferred")):
        graph[name] = server.node("SaveImage", images=["pair", slot], filename_prefix=name)
    return graph


def compare(server, *names: str, **inputs) -> dict[str, list]:
    """What a comparison gives: the values of EVERYTHING, and the pictures of each node that shows some."""
    outputs = server.run(comparison(server, *names, **inputs))
    return {
        node: shown["text"]
        if node in EVERYTHING
        else [
            Image.open(
                server.base / image["type"] / image["subfolder"] / image["filename"]
            ).convert("RGB")
            for image in shown["images"]
        ]
        for node, shown in outputs.items()
        if node in EVERYTHING or "images" in shown
    }


def test_the_embedded_judge_prefers_the_picture_that_the_prompt_asks_for(server, pictures):
    found = compare(server, "wrong", "right", check=True)
    assert found["winner"] == [2] and found["decided"] == [True]
    assert found["reward_a"] == [-0.1] and found["reward_b"] == [1.0]
    assert found["reasons"][0].startswith("B is preferred. ")
    for node, name in (("preferred", "right"), ("dispreferred", "wrong")):
        given = Image.open(pictures / f"{name}.png").convert("RGB")
        assert found[node][0].tobytes() == given.tobytes()
    (card,) = found["pair"]
    assert card.width > 700 and card.height > 400


def test_an_undecided_pair_rewards_nobody_and_stops_what_follows_unless_passed_on(server, pictures):
    found = compare(server, "right", "right")
    assert found["winner"] == [0] and found["decided"] == [False]
    assert found["reward_a"] == found["reward_b"] == [0.0]
    assert "preferred" not in found and "dispreferred" not in found
    assert found["reasons"][0].startswith("undecided. ")
    assert len(found["pair"]) == 1  # visible all the same
    found = compare(server, "white", "white", when_undecided="pass A on")
    assert found["preferred"][0].getpixel((0, 0)) == (255, 255, 255)


def test_batches_are_compared_pair_by_pair_and_one_image_with_all(server, pictures):
    found = compare(server, "right+wrong+right", "wrong+right+right")
    assert found["winner"] == [1, 2, 0] and found["reward_a"] == [1.0, -0.1, 0.0]
    assert len(found["preferred"]) == 2 and len(found["pair"]) == 3
    assert compare(server, "right", "wrong+right")["winner"] == [1, 0]
    message = server.fail(comparison(server, "right+wrong+right", "wrong+right"))
    assert "image_b: expected 1 image or 3, as many as the longer batch has, got 2" in message


def test_a_judge_on_the_network_sees_the_rubric_and_is_not_asked_twice(server, pictures):
    with judge_server(server, brighter) as network:
        graph = comparison(server, "black", "white", "box", rubric=["rubric", 0])
        typed = "- It is bright.\n  - Look at the sky."
        graph["rubric"] = server.node("ARRRubric", source="typed below", text=typed)
        assert server.run(graph)["winner"]["text"] == [2]
        text = network.requests[0].text
        assert network.calls == 2 and "It is bright." in text and PROMPT in text
        graph["again"] = server.node("TestShow", value=["pair", 3])
        server.run(graph)
        assert network.calls == 2, "an answered question was asked again"


def test_an_edit_is_judged_with_its_source(server, pictures):
    with judge_server(server, brighter, "editor") as network:
        graph = comparison(server, "black", "white", "editor", source=["wrong", 0])
        graph |= images(server, "wrong")
        assert server.run(graph)["winner"]["text"] == [2]
        assert set(network.requests[0].pictures) == {"BASE", "FIRST", "SECOND"}
        graph["rubric"] = server.node("ARRRubric", source="built-in: t2i")
        graph["pair"]["inputs"]["rubric"] = ["rubric", 0]
        assert "rubric: expected one for edits" in server.fail(graph)


@pytest.mark.parametrize(
    "answer, fields, words",
    [
        (brighter, {"model": "other"}, "knows no model 'other'"),
        ([error(500)], {}, "gives no verdict: HTTP 500"),
        ([Reply("I like both.")], {}, "answers, but gives no verdict"),
        (brighter, {"kind": "local", "model": "/models/gone", "url": ""}, "a folder or a hub name"),
        (brighter, {"kind": "panel", "members": ["box", "miniature"]}, "box is a panel"),
    ],
    ids=["model", "broken", "unreadable", "folder", "panel"],
)
def test_a_judge_that_cannot_answer_is_noticed_at_once(server, answer, fields, words):
    with OpenAIServer(answer, model="known") as network:
        write_profiles(server, box={"url": network.url, "model": "known", **fields})
        assert words in server.fail({"judge": judge(server, "box", check=True)})


@pytest.mark.parametrize(
    "name", ["gone", "http://evil.example/v1?key=x", "../../../../../etc/passwd"]
)
def test_a_workflow_names_a_profile_and_nothing_else(server, name):
    message = server.fail({"judge": judge(server, name, check=True)})
    assert "expected one of" in message and "root:" not in message


def test_a_check_asks_each_member_of_a_panel_but_no_person_and_no_model_that_is_not_loaded(server):
    with OpenAIServer([verdict("first")]) as network:
        write_profiles(
            server,
            here={"kind": "local", "model": "owner/a-vlm"},
            box={"url": network.url, "model": "m"},
            all={"kind": "panel", "members": ["here", "box", "human"]},
        )
        ((status,),) = server.show({"judge": judge(server, "all", check=True)}, "judge", 1)
        assert network.calls == 1
    here, box, human = status.split("; ")
    assert here == "here: a model in this process, loaded when it is first asked"
    assert (
        re.fullmatch(r"box: answers in [\d.]+ s", box)
        and human == "human: a judge of kind human, not checked"
    )


def test_a_check_asks_again_whatever_other_runs_have_heard(server):
    with judge_server(server, [verdict("first")]) as network:
        for calls in (1, 2):
            server.run({"judge": judge(server, "box", check=True)})
            assert network.calls == calls
            write_profiles(server, box={"url": network.url, "model": "box"})


def test_a_person_who_is_to_judge_is_told_where_and_is_heard(server, pictures):
    with listening(server) as heard:
        prompt = server.queue(comparison(server, "black", "white", "human", check=True))
        url = heard(rb"you are the judge: open (http://127\.0\.0\.1:\d+/[\w-]+/)")[1].decode()

    def task() -> dict | None:
        with urllib.request.urlopen(f"{url}state/-1") as reply:
            return json.load(reply)["task"]

    until(task)
    answer = json.dumps({"number": task()["number"], "side": None}).encode()
    origin = re.match(r"http://[^/]+", url)[0]
    urllib.request.urlopen(
        urllib.request.Request(f"{url}answer", answer, {"Origin": origin})
    ).close()
    outputs = server.wait(prompt, 30)["outputs"]
    assert outputs["winner"]["text"] == [0]
    assert "a person finds neither better" in outputs["reasons"]["text"][0]


def test_no_key_leaves_the_server(server, pictures):
    """The key of a profile is in the server's environment; nothing that it writes or says holds it."""
    with judge_server(server, brighter, "hosted", key=KEY, key_variable="ARR_TEST_KEY") as network:
        outputs = server.run(comparison(server, "black", "white", "hosted", check=True))
    assert outputs["winner"]["text"] == [2]
    folders = [server.base / name for name in ("output", "temp")]
    written = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert written
    for path in [*written, server.log]:
        assert KEY.encode() not in path.read_bytes(), path
    assert network.url not in json.dumps([outputs, server.http("/object_info")[1]])


def test_lists_of_the_page_offer_what_is_there(server):
    write_profiles(server, one={"url": "http://127.0.0.1:9/v1", "model": "m"})
    (server.base / "input/mine.txt").write_text("It is bright.\n")
    info = server.http("/object_info")[1]
    profiles = info["ARRJudge"]["input"]["required"]["profile"][1]["options"]
    assert profiles == ["miniature", "one", "human"] and {*BUILT_IN_PROFILES} < {*profiles}
    sources = info["ARRRubric"]["input"]["required"]["source"][1]["options"]
    assert {*(f"built-in: {name}" for name in BUILT_IN), "file: mine.txt"} <= {*sources}


def test_a_rubric_is_built_in_typed_or_a_file_and_runs_alone(server):
    def text(**inputs) -> str:
        return server.run({"rubric": server.node("ARRRubric", **inputs)})["rubric"]["text"][0]

    assert text(source="built-in: edit zh") == BUILT_IN["edit zh"].text
    assert text(source="typed below", text="- One.\n- Two.") == "1. One.\n2. Two."
    mine = Rubric(name="mine", task="edit", criteria=("A.", "B."))
    mine.save(server.base / "input/mine.json")
    assert text(source="file: mine.json") == "1. A.\n2. B."


@pytest.mark.parametrize(
    "source, words",
    [
        ("typed below", "typed text: expected one criterion a line, got nothing"),
        ("file: ../judges.yaml", "file in ComfyUI's input folder"),
        ("saved: ../../x", "that is no path"),
        ("nonsense", "source: expected one of built-in: t2i"),
    ],
)
def test_a_rubric_that_is_not_there_is_an_error(server, source, words):
    assert words in server.fail({"rubric": server.node("ARRRubric", source=source)})
