"""Writes the workflows of this folder: ``python workflows/build.py URL`` asks a running ComfyUI what its nodes look like.

``contents.py`` says what is in them. NAME.json is what the page opens, api/NAME.json is what ``POST /prompt`` takes. With
``--thumbnails`` NAME.jpg shows what comes of it where a CPU is enough for that, and else its nodes on the page in a browser;
the files that the workflows name must be there then, if only empty ones, or the page marks them in red.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.parse
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

HERE = Path(__file__).parent
DEMO, COMPARE = "arr_demo_miniature_training", "arr_compare_two_images"
SHAPES = "a red circle left of a blue square"  # input/shapes-0.png and input/shapes-1.png: two pictures of it
THUMBNAIL = (720, 407)
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
GAP_X, GAP_Y, TITLE = 60, 70, 40


@dataclass
class Node:
    """A node of a workflow. ``node[2]`` is its third output, to be given to another node."""

    kind: str
    column: int
    values: dict[str, Any]
    width: int
    height: int | None = None
    title: str | None = None
    models: list[dict] = field(default_factory=list)
    number: int = 0

    def __getitem__(self, slot: int) -> tuple[Node, int]:
        return self, slot


class Workflow:
    """Nodes in columns from left to right."""

    def __init__(self, name: str):
        self.name, self.nodes = name, []

    def add(
        self,
        kind: str,
        column: int,
        *,
        width: int = 320,
        height: int | None = None,
        title: str | None = None,
        models: list[dict] | None = None,
        **values: Any,
    ) -> Node:
        node = Node(kind, column, values, width, height, title, models or [], len(self.nodes) + 1)
        self.nodes.append(node)
        return node

    def note(self, column: int, text: str, *, width: int = 380, height: int = 300) -> None:
        self.add("MarkdownNote", column, width=width, height=height, title="Note", text=text)


def page_form(workflow: Workflow, info: dict) -> dict:
    """The workflow as the page opens it."""
    links, nodes, places = [], [], _places(workflow, info)
    for order, node in enumerate(workflow.nodes):
        inputs, values = [], []
        for slot, (name, kind, options) in enumerate(_inputs(node, info)):
            given = node.values.get(name)
            entry = {"name": name, "type": kind, "link": None}
            if kind in WIDGETS and not options.get("forceInput"):
                entry["widget"] = {"name": name}
                unset = given is None or isinstance(given, tuple)
                values.append(options.get("default", _first(kind, options)) if unset else given)
                values += ["fixed"] * bool(options.get("control_after_generate"))
                values += ["image"] * bool(options.get("image_upload"))
            if isinstance(given, tuple):
                entry["link"] = len(links) + 1
                links.append([len(links) + 1, given[0].number, given[1], node.number, slot, kind])
            inputs.append(entry)
        if node.kind == "MarkdownNote":
            values = [node.values["text"]]
        known = {name for name, _, _ in _inputs(node, info)}
        if (unknown := set(node.values) - known) and node.kind != "MarkdownNote":
            raise ValueError(f"{workflow.name}: {node.kind} has no {', '.join(unknown)}")
        outputs = info.get(node.kind, {})
        nodes.append(
            {
                "id": node.number,
                "type": node.kind,
                "pos": places[node.number][:2],
                "size": places[node.number][2:],
                "flags": {},
                "order": order,
                "mode": 0,
                "inputs": inputs,
                "outputs": [
                    {"name": name, "type": kind, "links": []}
                    for name, kind in zip(
                        outputs.get("output_name", []), outputs.get("output", []), strict=True
                    )
                ],
                "properties": {
                    "Node name for S&R": node.kind,
                    **({"models": node.models} if node.models else {}),
                },
                "widgets_values": values,
                **({"title": node.title} if node.title else {}),
            }
        )
    for number, source, slot, *_ in links:
        nodes[source - 1]["outputs"][slot]["links"].append(number)
    name = str(
        uuid.uuid5(uuid.NAMESPACE_URL, f"arr-rpo/{workflow.name}")
    )  # an older page warns of any other kind of id
    return {
        "id": name,
        "revision": 0,
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def api_form(page: dict) -> dict:
    """What ``POST /prompt`` takes, made of what the page opens."""
    sources = {number: [str(source), slot] for number, source, slot, *_ in page["links"]}
    graph = {}
    for node in page["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        values, inputs = list(node["widgets_values"]), {}
        for entry in node["inputs"]:
            if "widget" in entry:
                inputs[entry["name"]] = values.pop(0)
                if (
                    values
                    and values[0] in ("fixed", "randomize", "increment", "decrement")
                    and "seed" in entry["name"]
                ):
                    values.pop(0)
            if entry["link"] is not None:
                inputs[entry["name"]] = sources[entry["link"]]
        graph[str(node["id"])] = {
            "class_type": node["type"],
            "inputs": inputs,
            "_meta": {"title": node.get("title", node["type"])},
        }
    return graph


def _inputs(node: Node, info: dict) -> list[tuple[str, str, dict]]:
    """Name, type and options of a node's inputs: first the sockets, then the widgets, as the page orders them."""
    spec = info.get(node.kind, {"input": {}})["input"]
    found = []
    for group in ("required", "optional"):
        for name, definition in spec.get(group, {}).items():
            kind, options = definition[0], definition[1] if len(definition) > 1 else {}
            if isinstance(kind, list):
                kind, options = "COMBO", {**options, "options": kind}
            found.append((name, kind, options))
    return sorted(found, key=lambda entry: entry[1] in WIDGETS and not entry[2].get("forceInput"))


def _first(kind: str, options: dict) -> Any:
    return {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}.get(
        kind, (options.get("options") or [""])[0]
    )


def _places(workflow: Workflow, info: dict) -> dict[int, list[int]]:
    """x, y, width and height of each node: its column decides x, what stands above it y."""
    columns = sorted({node.column for node in workflow.nodes})
    places, x = {}, 0
    for column in columns:
        y, members = 0, [node for node in workflow.nodes if node.column == column]
        for node in members:
            height = node.height or _height(node, info)
            places[node.number] = [x, y, node.width, height]
            y += height + GAP_Y
        x += max(node.width for node in members) + GAP_X
    return places


def _height(node: Node, info: dict) -> int:
    inputs = _inputs(node, info)
    widgets = [
        options for _, kind, options in inputs if kind in WIDGETS and not options.get("forceInput")
    ]
    slots = max(len(inputs) - len(widgets), len(info.get(node.kind, {}).get("output", [])))
    pictures = 300 if node.kind in ("LoadImage", "SaveImage", "PreviewImage") else 0
    return (
        TITLE
        + 24 * slots
        + sum(
            110
            if options.get("multiline")
            else 32 + 32 * bool(options.get("control_after_generate"))
            for options in widgets
        )
        + pictures
    )


def write(url: str) -> list[str]:
    """The names of the workflows, written."""
    from contents import workflows

    with urllib.request.urlopen(f"{url}/object_info") as reply:
        info = json.load(reply)
    (HERE / "api").mkdir(exist_ok=True)
    names = []
    for workflow in workflows():
        page = page_form(workflow, info)
        for path, content in (
            (HERE / f"{workflow.name}.json", page),
            (HERE / "api" / f"{workflow.name}.json", api_form(page)),
        ):
            path.write_text(
                json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
            )
        names.append(workflow.name)
    return names


def photograph(url: str, names: list[str]) -> None:
    """Thumbnails of the workflows, as the page shows them."""
    import io
    import os
    import shutil

    from PIL import Image
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=os.environ.get("CHROMIUM") or shutil.which("chromium"),
            args=["--no-sandbox", "--disable-gpu"],
        )
        tab = browser.new_page(viewport={"width": 1600, "height": 1000})
        for setting, value in (
            ("Comfy.TutorialCompleted", b"true"),
            ("Comfy.Minimap.Visible", b"false"),
        ):
            urllib.request.urlopen(
                urllib.request.Request(
                    f"{url}/settings/{setting}", value, {"Content-Type": "application/json"}
                )
            )
        tab.goto(url)
        tab.wait_for_function(
            "() => window.app?.graph && window.app.extensionManager?.workflow", timeout=60000
        )
        for name in names:
            page = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
            tab.evaluate("async page => { await app.loadGraphData(page) }", page)
            tab.wait_for_timeout(1500)
            tab.keyboard.press("Escape")
            tab.evaluate(FIT, [1600, 1000])
            tab.wait_for_timeout(800)
            picture = (
                Image.open(io.BytesIO(tab.screenshot())).convert("RGB").crop((70, 90, 1590, 950))
            )
            picture.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS)
            picture.save(HERE / f"{name}.jpg", quality=82)
        browser.close()


def show_results(url: str) -> None:
    """Thumbnails of what the demo and the comparison show on their nodes, run on the embedded world."""
    import io

    from PIL import Image

    demo, compare = (
        json.loads((HERE / f"api/{name}.json").read_text()) for name in (DEMO, COMPARE)
    )
    rubric = next(node for node in demo.values() if node["class_type"] == "ARRRubric")
    for node in compare.values():
        if node["class_type"] in ("ARRJudge", "ARRRubric"):
            node["inputs"].update(profile="miniature", source=rubric["inputs"]["source"])
        elif node["class_type"] == "ARRJudgePair":
            node["inputs"]["prompt"] = SHAPES
    for at, node in enumerate(
        node for node in compare.values() if node["class_type"] == "LoadImage"
    ):
        node["inputs"]["image"] = f"shapes-{at}.png"
    for name, graph, kind in ((DEMO, demo, "ARRTrainRPO"), (COMPARE, compare, "ARRJudgePair")):
        shown = _run(url, graph)[
            next(number for number, node in graph.items() if node["class_type"] == kind)
        ]["images"][0]
        with urllib.request.urlopen(f"{url}/view?{urllib.parse.urlencode(shown)}") as reply:
            picture = Image.open(io.BytesIO(reply.read())).convert("RGB")
        picture.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS)
        card = Image.new("RGB", THUMBNAIL, picture.getpixel((1, 1)))
        card.paste(
            picture, ((card.width - picture.width) // 2, (card.height - picture.height) // 2)
        )
        card.save(HERE / f"{name}.jpg", quality=88)


def _run(url: str, graph: dict) -> dict:
    """What the nodes of a graph show, once it has ended."""
    body = json.dumps({"prompt": graph}).encode()
    with urllib.request.urlopen(
        urllib.request.Request(f"{url}/prompt", body, {"Content-Type": "application/json"})
    ) as reply:
        number = json.load(reply)["prompt_id"]
    while True:
        with urllib.request.urlopen(f"{url}/history/{number}") as reply:
            history = json.load(reply)
        if number in history:
            return history[number]["outputs"]
        time.sleep(1)


# The whole graph in the middle of the window, beside the page's own bars.
FIT = """([width, height]) => {
    const boxes = app.graph._nodes.map(node => [node.pos[0], node.pos[1] - 30, node.pos[0] + node.size[0], node.pos[1] + node.size[1]]);
    const [x0, y0] = [0, 1].map(at => Math.min(...boxes.map(box => box[at])));
    const [x1, y1] = [2, 3].map(at => Math.max(...boxes.map(box => box[at])));
    const scale = Math.min((width - 130) / (x1 - x0), (height - 190) / (y1 - y0), 1);
    app.canvas.ds.scale = scale;
    app.canvas.ds.offset = [((width + 60) / scale - (x0 + x1)) / 2, ((height + 20) / scale - (y0 + y1)) / 2];
    app.canvas.setDirty(true, true);
}"""  # noqa: E501

if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--thumbnails"]
    if len(words) != 1:
        sys.exit("usage: python workflows/build.py URL [--thumbnails]")
    written = write(words[0].rstrip("/"))
    if "--thumbnails" in sys.argv:
        photograph(words[0].rstrip("/"), [name for name in written if name not in (DEMO, COMPARE)])
        show_results(words[0].rstrip("/"))
    print(f"wrote {', '.join(written)}")
