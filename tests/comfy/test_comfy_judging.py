"""Rubrics, judges and comparisons in a real ComfyUI; the judge is the embedded one, or a server that is scripted."""

from __future__ import annotations

import json
import random
import re
import urllib.request
from pathlib import Path

import pytest
from comfy_runs import listening, until
from doubles.openai_server import OpenAIServer, Reply, brighter, error, verdict
from PIL import Image

from arr_core.judging import Judge, Pair
from arr_core.judging.profiles import BUILT_IN as BUILT_IN_PROFILES
from arr_core.judging.profiles import make_client
from arr_core.miniature.world import parse_prompt, place, render
from arr_core.rubrics import BUILT_IN, Rubric

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


def write_profiles(server, **profiles) -> None:
    (server.base / "judges.yaml").write_text(json.dumps(profiles))


def images(*names: str) -> dict:
    """A node that gives a batch of files, and what it needs."""
    nodes = {
        name: {"class_type": "LoadImage", "inputs": {"image": f"{name}.png"}} for name in names
    }
    batch = names[0]
    for name in names[1:]:
        nodes[f"{batch}+{name}"] = {
            "class_type": "ImageBatch",
            "inputs": {"image1": [batch, 0], "image2": [name, 0]},
        }
        batch = f"{batch}+{name}"
    return nodes


def comparison(
    a: str,
    b: str,
    *,
    profile: str = "miniature",
    check: bool = False,
    both_orders: bool = True,
    **inputs,
) -> dict:
    graph = {
        **images(*a.split("+")),
        **images(*b.split("+")),
        "judge": {
            "class_type": "ARRJudge",
            "inputs": {
                "profile": profile,
                "both_orders": both_orders,
                "check": check,
                "timeout": 10.0,
            },
        },
        "pair": {
            "class_type": "ARRJudgePair",
            "inputs": {
                "image_a": [a, 0],
                "image_b": [b, 0],
                "prompt": PROMPT,
                "judge": ["judge", 0],
                "when_undecided": "stop here",
                "reward_preferred": 1.0,
                "reward_dispreferred": -0.1,
                **inputs,
            },
        },
    }
    for at, name in enumerate(EVERYTHING, 3):
        graph[name] = {"class_type": "TestShow", "inputs": {"value": ["pair", at]}}
    for at, name in enumerate(("preferred", "dispreferred")):
        graph[name] = {
            "class_type": "SaveImage",
            "inputs": {"images": ["pair", at], "filename_prefix": name},
        }
    return graph


def shown(server, outputs: dict, node: str) -> list[Image.Image]:
    """The pictures that a node shows."""
    return [
        Image.open(server.base / image["type"] / image["subfolder"] / image["filename"]).convert(
            "RGB"
        )
        for image in outputs.get(node, {}).get("images", [])
    ]


def values(outputs: dict, name: str) -> list:
    return outputs[name]["text"]


def test_the_embedded_judge_prefers_the_picture_that_the_prompt_asks_for(server, pictures):
    outputs = server.run(comparison("wrong", "right", check=True))
    assert values(outputs, "winner") == [2] and values(outputs, "decided") == [True]
    assert values(outputs, "reward_a") == [-0.1] and values(outputs, "reward_b") == [1.0]
    assert values(outputs, "reasons")[0].startswith("B is preferred. ")
    (preferred,), (other,) = (
        shown(server, outputs, "preferred"),
        shown(server, outputs, "dispreferred"),
    )
    assert preferred.tobytes() == Image.open(pictures / "right.png").convert("RGB").tobytes()
    assert other.tobytes() == Image.open(pictures / "wrong.png").convert("RGB").tobytes()
    (card,) = shown(server, outputs, "pair")
    assert card.width > 700 and card.height > 400


def test_an_undecided_pair_stops_what_comes_after_it_and_rewards_nobody(server, pictures):
    outputs = server.run(comparison("right", "right"))
    assert values(outputs, "winner") == [0] and values(outputs, "decided") == [False]
    assert values(outputs, "reward_a") == values(outputs, "reward_b") == [0.0]
    assert "preferred" not in outputs and "dispreferred" not in outputs
    assert values(outputs, "reasons")[0].startswith("undecided. ")
    assert len(shown(server, outputs, "pair")) == 1  # visible all the same


def test_an_undecided_pair_can_be_passed_on(server, pictures):
    outputs = server.run(comparison("white", "white", when_undecided="pass A on"))
    assert shown(server, outputs, "preferred")[0].getpixel((0, 0)) == (255, 255, 255)


def test_batches_are_compared_pair_by_pair(server, pictures):
    outputs = server.run(comparison("right+wrong+right", "wrong+right+right"))
    assert values(outputs, "winner") == [1, 2, 0]
    assert values(outputs, "reward_a") == [1.0, -0.1, 0.0]
    assert (
        len(shown(server, outputs, "preferred")) == 2 and len(shown(server, outputs, "pair")) == 3
    )


def test_one_image_is_compared_with_all(server, pictures):
    assert values(server.run(comparison("right", "wrong+right")), "winner") == [1, 0]


def test_batches_of_different_lengths_are_an_error(server, pictures):
    assert "image_b: expected 1 image or 3, as many as the longer batch has, came 2" in server.fail(
        comparison("right+wrong+right", "wrong+right")
    )


def test_a_judge_on_the_network_sees_both_images_the_prompt_and_the_rubric(server, pictures):
    with OpenAIServer(brighter) as judge:
        write_profiles(server, box={"url": judge.url, "model": "a-vlm"})
        graph = comparison("black", "white", profile="box", rubric=["rubric", 0])
        graph["rubric"] = {
            "class_type": "ARRRubric",
            "inputs": {
                "source": "typed below",
                "task": "text to image",
                "text": "- It is bright.\n  - Look at the sky.",
            },
        }
        outputs = server.run(graph)
        assert values(outputs, "winner") == [2]
        assert (
            judge.calls == 2
            and "It is bright." in judge.requests[0].text
            and PROMPT in judge.requests[0].text
        )
        server.run({**graph, "again": {"class_type": "TestShow", "inputs": {"value": ["pair", 3]}}})
        assert judge.calls == 2, "an answered question was asked again"


def test_two_orders_that_disagree_are_undecided(server, pictures):
    with OpenAIServer([verdict("first")]) as judge:
        write_profiles(server, biased={"url": judge.url, "model": "biased"})
        outputs = server.run(comparison("black", "white", profile="biased"))
    assert (
        values(outputs, "winner") == [0]
        and "the two orders disagree" in values(outputs, "reasons")[0]
    )


def test_an_edit_is_judged_with_its_source(server, pictures):
    with OpenAIServer(brighter) as judge:
        write_profiles(server, editor={"url": judge.url, "model": "editor"})
        graph = {
            **comparison("black", "white", profile="editor", source=["wrong", 0]),
            **images("wrong"),
        }
        assert values(server.run(graph), "winner") == [2]
        assert set(judge.requests[0].pictures) == {"BASE", "FIRST", "SECOND"}
        graph["rubric"] = {
            "class_type": "ARRRubric",
            "inputs": {"source": "built-in: t2i", "task": "text to image", "text": ""},
        }
        graph["pair"]["inputs"]["rubric"] = ["rubric", 0]
        assert "rubric: expected one for edits" in server.fail(graph)


@pytest.mark.parametrize(
    "answer, profile, words",
    [
        (brighter, {"url": "{url}", "model": "other"}, "knows no model 'other'"),
        (
            brighter,
            {"url": "{url}", "model": "known", "key_variable": "NO_SUCH_KEY"},
            "NO_SUCH_KEY, which is not set",
        ),
        (
            brighter,
            {"url": "http://127.0.0.1:9/v1", "model": "known"},
            "no judge answers at http://127.0.0.1:9/v1",
        ),
        ([error(500)], {"url": "{url}", "model": "known"}, "gives no verdict: HTTP 500"),
        ([error(429)], {"url": "{url}", "model": "known"}, "raise the timeout, try again"),
        (
            [Reply("I like both.")],
            {"url": "{url}", "model": "known"},
            "answers, but gives no verdict",
        ),
        (brighter, None, "expected one of"),
    ],
    ids=["model", "key", "server", "broken", "busy", "unreadable", "name"],
)
def test_a_judge_that_cannot_answer_is_found_out_at_once(server, pictures, answer, profile, words):
    with OpenAIServer(answer, model="known") as judge:
        profiles = (
            {}
            if profile is None
            else {"faulty": {**profile, "url": profile["url"].format(url=judge.url)}}
        )
        write_profiles(server, **profiles)
        assert words in server.fail(comparison("black", "white", profile="faulty", check=True))


def status(server, profile: str) -> str:
    graph = {
        "judge": {
            "class_type": "ARRJudge",
            "inputs": {"profile": profile, "both_orders": True, "check": True, "timeout": 10.0},
        },
        "show": {"class_type": "TestShow", "inputs": {"value": ["judge", 1]}},
    }
    return server.run(graph)["show"]["text"][0]


def test_a_check_asks_each_member_of_a_panel_but_no_person_and_no_model_that_is_not_loaded(server):
    with OpenAIServer([verdict("first")]) as judge:
        write_profiles(
            server,
            here={"kind": "local", "model": "owner/a-vlm"},
            box={"url": judge.url, "model": "m"},
            all={"kind": "panel", "members": ["here", "box", "human"]},
        )
        said = status(server, "all").split("; ")
        assert judge.calls == 1
    assert (
        said[0] == "here: a model in this process, loaded when it is first asked"
        and said[2] == "human: not checked"
    )
    assert re.fullmatch(r"box: answers in [\d.]+ s", said[1])


def test_a_local_judge_whose_folder_is_not_there_is_found_out(server, pictures):
    write_profiles(server, here={"kind": "local", "model": "/models/gone"})
    assert "expected a folder or a hub name" in server.fail(
        comparison("black", "white", profile="here", check=True)
    )


def test_a_panel_of_panels_is_found_out(server, pictures):
    write_profiles(server, all={"kind": "panel", "members": ["all", "miniature"]})
    assert "all is a panel" in server.fail(comparison("black", "white", profile="all", check=True))


def test_a_check_asks_whatever_other_runs_have_heard(server, tmp_path, monkeypatch):
    """As the node's check does: what is shared would answer for a server that is gone."""
    monkeypatch.setenv("ARR_VERDICTS", str(tmp_path / "shared.sqlite"))
    pair = Pair(PROMPT, *(Image.new("RGB", (8, 8), name) for name in ("red", "blue")))
    with OpenAIServer([verdict("first")]) as model:
        write_profiles(server, box={"url": model.url, "model": "m"})
        monkeypatch.setenv("ARR_JUDGES", str(server.base / "judges.yaml"))
        for shared, calls in ((True, 1), (True, 1), (False, 2)):
            with Judge(
                make_client("box"), BUILT_IN["t2i"], both_orders=False, shared=shared
            ) as judge:
                judge.submit([pair]).result()
            assert model.calls == calls


def test_a_person_who_is_to_judge_is_told_where_and_is_heard(server, pictures):
    with listening(server) as heard:
        prompt = server.queue(comparison("black", "white", profile="human", check=True))
        url = heard(rb"you are the judge: open (http://127\.0\.0\.1:\d+/[\w-]+/)")[1].decode()
    until(lambda: json.load(urllib.request.urlopen(f"{url}state"))["card"])
    number = json.load(urllib.request.urlopen(f"{url}state"))["card"]["number"]
    origin = re.match(r"http://[^/]+", url)[0]
    urllib.request.urlopen(
        urllib.request.Request(
            f"{url}answer",
            json.dumps({"number": number, "choice": "0"}).encode(),
            {"Origin": origin},
        )
    ).close()
    outputs = server.wait(prompt, 30)["outputs"]
    assert (
        values(outputs, "winner") == [0]
        and "a person finds neither better" in values(outputs, "reasons")[0]
    )


def test_no_key_leaves_the_server(server, pictures):
    """The key of a profile is in the server's environment; nothing that it writes or says holds it."""
    with OpenAIServer(brighter, key=KEY) as judge:
        write_profiles(
            server, hosted={"url": judge.url, "model": "hosted", "key_variable": "ARR_TEST_KEY"}
        )
        outputs = server.run(comparison("black", "white", profile="hosted", check=True))
    assert values(outputs, "winner") == [2]
    written = [
        path
        for folder in ("output", "temp")
        for path in (server.base / folder).rglob("*")
        if path.is_file()
    ]
    assert written
    for path in [*written, server.log]:
        assert KEY.encode() not in path.read_bytes(), path
    assert judge.url not in json.dumps([outputs, server.http("/object_info")[1]])


def test_lists_of_the_page_offer_what_is_there(server):
    write_profiles(server, one={"url": "http://127.0.0.1:9/v1", "model": "m"})
    (server.base / "input/mine.txt").write_text("It is bright.\n")
    info = server.http("/object_info")[1]

    def options(node: str, name: str) -> list[str]:
        first = info[node]["input"]["required"][name]
        return first[1]["options"] if first[0] == "COMBO" else first[0]

    assert options("ARRJudge", "profile") == [
        "miniature",
        "one",
        "human",
    ] and BUILT_IN_PROFILES == ("human", "miniature")
    sources = options("ARRRubric", "source")
    assert {f"built-in: {name}" for name in BUILT_IN} <= set(
        sources
    ) and "file: mine.txt" in sources


def rubric_text(server, **inputs) -> str:
    graph = {
        "rubric": {
            "class_type": "ARRRubric",
            "inputs": {"source": "typed below", "task": "text to image", "text": "", **inputs},
        },
        "show": {"class_type": "TestShow", "inputs": {"value": ["rubric", 1]}},
    }
    return server.run(graph)["show"]["text"][0]


def test_a_rubric_is_built_in_typed_or_a_file(server):
    assert rubric_text(server, source="built-in: edit zh") == BUILT_IN["edit zh"].text
    assert rubric_text(server, text="- One.\n- Two.") == "1. One.\n2. Two."
    Rubric(name="mine", task="edit", criteria=("A.", "B.")).save(
        Path(server.base / "input/mine.json")
    )
    assert rubric_text(server, source="file: mine.json") == "1. A.\n2. B."


@pytest.mark.parametrize(
    "inputs, words",
    [
        ({}, "text: expected one criterion a line, came nothing"),
        ({"source": "file: ../judges.yaml"}, "leads out of it"),
        ({"source": "file: /etc/passwd"}, "leads out of it"),
        ({"source": "saved: ../../x"}, "that is no path"),
        ({"source": "file: gone.txt"}, "file in ComfyUI's input folder"),
        ({"source": "nonsense"}, "source: expected one of built-in: t2i"),
    ],
)
def test_a_rubric_that_is_not_there_is_an_error(server, inputs, words):
    graph = {
        "rubric": {
            "class_type": "ARRRubric",
            "inputs": {"source": "typed below", "task": "text to image", "text": "", **inputs},
        },
        "show": {"class_type": "TestShow", "inputs": {"value": ["rubric", 1]}},
    }
    assert words in server.fail(graph)


def test_a_judge_a_rubric_and_nothing_else_can_be_run(server):
    graph = {
        "judge": {
            "class_type": "ARRJudge",
            "inputs": {"profile": "miniature", "both_orders": True, "check": True, "timeout": 60.0},
        },
        "rubric": {
            "class_type": "ARRRubric",
            "inputs": {"source": "built-in: t2i", "task": "text to image", "text": ""},
        },
    }
    outputs = server.run(graph)
    assert (
        "answers in" in outputs["judge"]["text"][0]
        and "1. Every object" in outputs["rubric"]["text"][0]
    )
