"""The pack as a whole in a real ComfyUI: what the server says of it, its files, its manners as a guest."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from graphs import judge, write_profiles
from real_comfyui.install import comfyui
from real_comfyui.server import serving

ROOT = Path(__file__).resolve().parents[2]
NODES = {
    f"ARR{name}"
    for name in (
        "Judge JudgePair LoadAdapter Rubric RubricFromPairs RubricFromPrompt TrainRPO WinRate".split()
    )
}
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
SECRETS = re.compile(r"sk-|api_key|Bearer|token=", re.IGNORECASE)


def run(command: list, **options) -> str:
    """What a command prints, once it has ended well."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module", params=["server", "old_server"])
def info(request) -> dict:
    """The nodes of the newer and of the older ComfyUI in turn."""
    return request.getfixturevalue(request.param).http("/object_info")[1]


def inputs_of(node: dict) -> dict[str, list]:
    """Name -> definition of a node's inputs."""
    return {**node["input"].get("required", {}), **node["input"].get("optional", {})}


def test_every_node_is_there_with_a_tooltip_on_every_input_and_output(info):
    ours = {name: node for name, node in info.items() if node["category"] == "ARR-RPO"}
    assert ours.keys() == NODES
    for name, node in ours.items():
        assert node["display_name"] and node["description"], name
        for key, (_, options) in inputs_of(node).items():
            assert options.get("tooltip"), f"{name}.{key}"
        assert node["output_tooltips"] and all(node["output_tooltips"]), name


def test_newer_fields_are_used_where_they_exist(server):
    node = server.http("/object_info/ARRTrainRPO")[1]["ARRTrainRPO"]
    assert "lora training" in node["search_aliases"]
    assert inputs_of(node)["settings"][1]["advanced"]


def test_the_other_nodes_are_as_they_are_without_us(server, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
    with serving(tmp_path / "base", pack=empty) as alone:
        without = alone.http("/object_info")[1]
    info = server.http("/object_info")[1]
    assert without.keys() == info.keys() - NODES
    for name in without:
        assert without_choices(without[name]) == without_choices(info[name])


def without_choices(node: dict) -> dict:
    """A node without what its combos offer: lists of files, which other tests add to."""

    def plain(kind, *options):
        changing = {key: None for one in options for key in ("options", "default")}
        return [
            "COMBO" if isinstance(kind, list) else kind,
            *({**one, **changing} for one in options),
        ]

    return {**node, "input": {name: plain(*spec) for name, spec in inputs_of(node).items()}}


def test_the_server_serves_help_languages_and_workflows(server):
    for name, node in server.http("/object_info")[1].items():
        if name in NODES:
            status, content = server.http(f"/extensions/ARR-RPO/docs/{name}.md")
            page = content.decode()
            assert status == 200 and page.startswith("# "), name
            for part in (*inputs_of(node), *node["output_name"], "## Common errors", "## Example"):
                assert part in page, f"{name}: {part}"
    templates = server.http("/workflow_templates")[1]["ARR-RPO"]
    assert sorted(templates) == [path.stem for path in WORKFLOWS]
    for name in templates:
        assert server.http(f"/api/workflow_templates/ARR-RPO/{name}.jpg")[0] == 200


@pytest.mark.parametrize("language, letters", [("en", "[a-z]"), ("zh", "[\u4e00-\u9fff]")])
def test_every_language_has_the_texts_of_every_node(server, language, letters):
    info = server.http("/object_info")[1]
    texts = server.http("/i18n")[1][language]["nodeDefs"]
    for name in NODES:
        inputs, outputs = texts[name]["inputs"], texts[name]["outputs"]
        assert inputs.keys() == inputs_of(info[name]).keys(), f"{language}: {name}"
        assert [*outputs] == [str(slot) for slot in range(len(info[name]["output"]))], name
        for entry in [*inputs.values(), *outputs.values()]:
            assert entry["name"] and re.search(letters, entry["tooltip"]), f"{language}: {name}"


def test_workflows_are_what_the_script_writes(server, tmp_path):
    for path in (ROOT / "workflows").glob("*.py"):
        shutil.copy(path, tmp_path)
    run([sys.executable, tmp_path / "build.py", server.url])
    for path in [*WORKFLOWS, *(ROOT / "workflows/api").glob("*.json")]:
        made = tmp_path / path.relative_to(ROOT / "workflows")
        assert json.loads(made.read_text()) == json.loads(path.read_text()), (
            f"run: python workflows/build.py URL ({path.name})"
        )


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_holds_no_secret_and_says_where_its_models_are(path):
    text = path.read_text(encoding="utf-8")
    assert not SECRETS.search(text) and path.with_suffix(".jpg").is_file()
    page = json.loads(text)
    assert any(node["type"] == "MarkdownNote" for node in page["nodes"])
    for node in page["nodes"]:
        files = [value for value in node["widgets_values"] if str(value).endswith(".safetensors")]
        models = node["properties"].get("models", [])
        assert set(files) <= {
            model["name"] for model in models
        }  # a page offers a download for a value of this very name
        assert all(
            model["url"].startswith("https://huggingface.co/") and model["directory"]
            for model in models
        )


def test_starting_costs_less_than_a_tenth_of_a_second_and_loads_nothing_heavy(tmp_path):
    """What ComfyUI does with the pack, in ComfyUI's interpreter after ComfyUI's own imports."""
    folder, python = comfyui("0.30.0")
    code = f"""
import asyncio, importlib.util, json, sys, time
sys.argv = ["main.py", "--cpu"]
sys.path.insert(0, {str(folder)!r})
import comfy.options
comfy.options.enable_args_parsing()
import nodes, server, comfy.sd, comfy.lora
from comfy_api.latest import io
before = set(sys.modules)
start = time.perf_counter()
spec = importlib.util.spec_from_file_location("custom_nodes.pack", {str(ROOT / "__init__.py")!r})
module = sys.modules["custom_nodes.pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
extension = asyncio.run(module.comfy_entrypoint())
for node in asyncio.run(extension.get_node_list()):
    node.GET_SCHEMA()
took = time.perf_counter() - start
new = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(json.dumps([took, sorted(new)]))
"""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "tests/real_comfyui/shims"),
        "HOME": str(tmp_path),
    }
    times = []
    for _ in range(3):  # the first one may compile
        printed = run([python, "-c", code], cwd=folder, env=environment)
        took, new = json.loads(printed.strip().splitlines()[-1])
        times.append(took)
    assert min(times) < 0.1
    heavy = {"diffusers", "peft", "accelerate", "openai", "pydantic_settings", "matplotlib"}
    assert not heavy & set(new)


def test_a_missing_package_is_an_error_on_the_node_and_no_vanished_pack(tmp_path):
    """A sitecustomize that hides a package stands in for a Python that lacks it."""
    hidden = tmp_path / "hidden"
    shutil.copytree(ROOT / "tests/real_comfyui/shims", hidden)
    (hidden / "sitecustomize.py").write_text(
        "import sys\nclass Hide:\n    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('openai', 'peft', 'json_repair'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Hide())\n"
    )
    with serving(tmp_path / "base", PYTHONPATH=str(hidden)) as server:
        assert NODES <= server.http("/object_info")[1].keys()
        write_profiles(server, box={"url": "http://127.0.0.1:9/v1", "model": "m"})
        message = server.fail({"judge": judge(server, "box", check=True)})
    assert "is missing in ComfyUI's Python" in message and "-m pip install -r" in message


HOSTS = {"4.57.3": "0.36.0", "5.23.0": "2.4.0"}  # transformers -> the huggingface_hub beside it
KEPT = {"torch", "torchvision", "numpy", "transformers", "huggingface_hub", "tokenizers", "pillow"}


@pytest.mark.parametrize("transformers", HOSTS)
def test_requirements_change_nothing_that_a_host_has(transformers, tmp_path):
    """pip, asked to install our requirements into a ComfyUI's environment, leaves alone what others rely on. The host is made
    of the records of installed packages, which is all that pip looks at."""
    new = transformers >= "5"
    host = {
        "torch": "2.8.0",
        "torchvision": "0.23.0",
        "numpy": "1.26.4",
        "transformers": transformers,
        "tokenizers": "0.23.3" if new else "0.22.1",
        "huggingface_hub": HOSTS[transformers],
        "pillow": "11.0.0",
        "safetensors": "0.8.0" if new else "0.6.2",
    }
    needs = {
        "transformers": [
            f"huggingface-hub{'<3.0,>=1.31.0' if new else '<1.0,>=0.34.0'}",
            "tokenizers<0.24.0,>=0.22.0",
            "numpy>=1.17",
        ]
    }
    run([sys.executable, "-m", "venv", tmp_path / "host"])
    python = next((tmp_path / "host").glob("[bS]*/python*"))
    (packages,) = (tmp_path / "host").glob("[lL]ib/**/site-packages")
    for name, version in host.items():
        record = packages / f"{name}-{version}.dist-info"
        record.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {need}" for need in needs.get(name, [])]
        (record / "METADATA").write_text("\n".join(lines) + "\n")
        (record / "INSTALLER").write_text("pip\n")
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--dry-run", "--quiet"]
    report = tmp_path / "report.json"
    run([*pip, "--report", report, "-r", ROOT / "requirements.txt"])
    added = {
        item["metadata"]["name"].lower().replace("-", "_")
        for item in json.loads(report.read_text())["install"]
    }
    assert {"diffusers", "peft", "openai"} <= added and not added & KEPT
