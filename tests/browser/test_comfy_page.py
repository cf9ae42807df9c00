"""The pack on ComfyUI's page, in a real browser: every node, every workflow, help, and a training that is watched."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest
from PIL import Image
from real_comfyui.server import serving

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
NODES = [
    "ARRLoadAdapter",
    "ARRRubric",
    "ARRRubricFromPrompt",
    "ARRRubricFromPairs",
    "ARRJudge",
    "ARRJudgePair",
    "ARRTrainRPO",
    "ARRWinRate",
]
SMALL = "rollout.prompts_per_update = 4\nrollout.micro_batch = 8\nvalidation.every = 1\nvalidation.count = 4"
# Whether the trainer's node shows a text, and a picture of this width.
SHOWN = """([text, width]) => { const node = app.graph._nodes.find(node => node.type === 'ARRTrainRPO');
    const said = node?.widgets.find(widget => widget.name === '$$node-text-preview')?.value ?? '';
    return new RegExp(text).test(said) && (node.imgs ?? []).some(image => image.naturalWidth === width); }"""
# Of ComfyUI itself: files that a fresh user does not have, an extension's old way, the older page's own start, and a
# node's text that reaches the older page before its canvas is made (the next one is shown).
NOISE = re.compile(
    r"Failed to load resource|accessed before initialization|net::ERR|api.comfy.org|Failed to fetch|"
    r"at onChange \(|getCanvas: canvas is null"
)


@pytest.fixture(scope="module", params=["0.30.0", "0.3.75"])
def served(request, tmp_path_factory):
    """The newest and the oldest version, each with its own page. Its folders hold what the workflows name, if only empty."""
    base = tmp_path_factory.mktemp("page")
    for path in WORKFLOWS:
        for node in json.loads(path.read_text())["nodes"]:
            for model in node["properties"].get("models", []):
                file = base / "models" / model["directory"] / model["name"]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()
    (base / "input").mkdir()
    Image.radial_gradient("L").convert("RGB").save(base / "input/example.png")
    (base / "input/pairs.jsonl").touch()
    (base / "judges.yaml").write_text('local: {url: "http://127.0.0.1:9/v1", model: m}\n')
    with serving(base, request.param) as server:
        server.http("/settings/Comfy.TutorialCompleted", True)
        yield server


@pytest.fixture(scope="module")
def page(chromium, served):
    """The page, open. At the end its console must hold no error but ComfyUI's own."""
    tab = chromium.new_page(viewport={"width": 1600, "height": 1000})
    faults: list[str] = []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on(
        "console", lambda message: faults.append(message.text) if message.type == "error" else None
    )
    opened(tab, served)
    yield tab
    tab.close()
    assert [fault for fault in faults if not NOISE.search(fault)] == []


def opened(tab, server) -> None:
    tab.goto(server.url)
    tab.wait_for_function(
        "() => window.app?.extensionManager?.workflow && window.app.graph", timeout=60000
    )
    tab.wait_for_timeout(500)


def picture(tab, name: str) -> None:
    """Keep a picture of the page where ARR_SCREENSHOTS names a folder, for people to look at."""
    if os.environ.get("ARR_SCREENSHOTS"):
        tab.screenshot(path=f"{os.environ['ARR_SCREENSHOTS']}/{name}.png")


def load(tab, content: dict) -> None:
    tab.evaluate("async content => { await app.loadGraphData(content) }", content)
    tab.wait_for_timeout(1000)


def boxes(tab) -> dict[str, list[float]]:
    """Title -> left, top, right, bottom of each node, its title bar included, at the size that it needs."""
    return tab.evaluate("""() => Object.fromEntries(app.graph._nodes.map(node => {
        const least = node.computeSize(), size = [0, 1].map(at => Math.max(node.size[at], least[at]));
        const [x, y] = node.pos;
        return [node.id + ' ' + node.title, [x, y - 30, x + size[0], y + size[1]]]; }))""")


def test_every_node_can_be_placed(page):
    page.evaluate(
        """names => { app.graph.clear(); names.forEach((name, at) => {
        const node = LiteGraph.createNode(name); node.pos = [60 + 430 * (at % 4), 120 + 460 * Math.floor(at / 4)];
        app.graph.add(node); });
        app.canvas.ds.scale = 0.85; app.canvas.ds.offset = [60, 40]; app.canvas.setDirty(true, true); }""",
        NODES,
    )
    page.wait_for_timeout(700)
    picture(page, "nodes")
    found = page.evaluate(
        "() => app.graph._nodes.map(node => [node.type, node.title, node.has_errors ?? false])"
    )
    assert [kind for kind, _, _ in found] == NODES and not any(fault for *_, fault in found)
    assert "Train Adapter (RPO)" in [title for _, title, _ in found]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_opens_without_missing_nodes_or_overlaps_and_runs_as_its_api_form_says(
    page, path
):
    load(page, json.loads(path.read_text(encoding="utf-8")))
    picture(page, path.stem)
    assert page.get_by_text("Invalid workflow").count() == 0
    assert (
        page.evaluate(
            "() => app.graph._nodes.filter(node => !LiteGraph.registered_node_types[node.type]).length"
        )
        == 0
    )
    placed = list(boxes(page).items())
    for at, (name, (left, top, right, bottom)) in enumerate(placed):
        for other, (x0, y0, x1, y1) in placed[at + 1 :]:
            assert right <= x0 or x1 <= left or bottom <= y0 or y1 <= top, (
                f"{name} overlaps {other}"
            )
    sent = page.evaluate("async () => (await app.graphToPrompt()).output")
    wanted = json.loads((ROOT / "workflows/api" / path.name).read_text(encoding="utf-8"))
    assert sent.keys() == wanted.keys()
    for number, node in wanted.items():
        inputs = sent[number]["inputs"]
        if not node["class_type"].startswith(
            "ARR"
        ):  # an older ComfyUI's own nodes have other widgets
            inputs = {
                **node["inputs"],
                **{name: inputs[name] for name in inputs if name in node["inputs"]},
            }
        assert sent[number]["class_type"] == node["class_type"] and inputs == node["inputs"], number


def test_help_is_shown_beside_the_page(page):
    page.evaluate("""() => { app.graph.clear(); const node = LiteGraph.createNode('ARRJudgePair'); node.pos = [500, 300];
        app.graph.add(node); app.canvas.ds.scale = 1; app.canvas.ds.offset = [0, 0]; app.canvas.selectNode(node);
        app.canvas.setDirty(true, true); }""")
    page.get_by_test_id("info-button").click()
    page.get_by_text("never a coin flip", exact=False).first.wait_for(timeout=10000)
    picture(page, "help")


def test_words_of_strangers_run_nothing_on_the_page(page):
    page.evaluate("""() => { app.graph.clear(); const node = LiteGraph.createNode('ARRRubric'); node.pos = [300, 200];
        const set = (name, value) => { node.widgets.find(widget => widget.name === name).value = value; };
        set('source', 'typed below'); set('text', 'It is <b>bright</b>. <img src=x onerror="window.ran = true">');
        app.graph.add(node); app.queuePrompt(0, 1); }""")
    page.wait_for_function(
        """() => app.graph._nodes[0].widgets.some(
        widget => widget.name === '$$node-text-preview' && widget.value.includes('bright'))""",
        timeout=30000,
    )
    page.wait_for_timeout(1000)
    picture(page, "strangers")
    assert page.evaluate("() => window.ran ?? false") is False
    assert page.get_by_text("1. It is ‹b>bright‹/b>.", exact=False).count() >= 1


def test_a_training_is_watched_stopped_and_seen_again_after_a_reload(page, served):
    content = json.loads(
        (ROOT / "workflows/arr_demo_miniature_training.json").read_text(encoding="utf-8")
    )
    node = next(node for node in content["nodes"] if node["type"] == "ARRTrainRPO")
    names = [entry["name"] for entry in node["inputs"] if "widget" in entry]
    node["widgets_values"][names.index("settings")] = SMALL
    node["widgets_values"][names.index("updates")] = 2000
    load(page, content)
    page.evaluate("""() => { app.canvas.ds.scale = 0.72; app.canvas.ds.offset = [-300, 110]; app.canvas.setDirty(true, true);
        app.queuePrompt(0, 1); }""")
    page.wait_for_function(SHOWN, arg=[r"^update \d+ of 2000 ", 960], timeout=200000)
    page.wait_for_timeout(1000)
    picture(page, "training")
    opened(page, served)
    page.wait_for_function(SHOWN, arg=[r"^update \d+ of 2000 ", 960], timeout=60000)
    page.wait_for_timeout(1000)
    picture(page, "reloaded")
    page.evaluate("() => fetch('/interrupt', {method: 'POST'})")
    end = time.monotonic() + 60
    while served.http("/queue")[1]["queue_running"]:
        assert time.monotonic() < end
        time.sleep(0.2)
    log = (served.base / "output/ARR-RPO/runs/demo/events.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["event"] == "stopped"
