"""Writes en/nodeDefs.json: ``python locales/build.py URL`` asks a running ComfyUI for the texts of our nodes.

The other languages are written by hand, with the same keys.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path


def texts(info: dict) -> dict:
    """Names and tooltips of our nodes, in the form of nodeDefs.json."""
    nodes = {}
    for name, node in sorted(info.items()):
        if node.get("category") != "ARR-RPO":
            continue
        inputs = {}
        for group in ("required", "optional"):
            for key, definition in node["input"].get(group, {}).items():
                options = definition[1] if len(definition) > 1 else {}
                inputs[key] = {"name": key, "tooltip": options.get("tooltip", "")}
        outputs = {
            str(at): {"name": label, "tooltip": tip}
            for at, (label, tip) in enumerate(
                zip(node["output_name"], node["output_tooltips"], strict=True)
            )
        }
        nodes[name] = {
            "display_name": node["display_name"],
            "description": node["description"],
            "inputs": inputs,
            "outputs": outputs,
        }
    return nodes


if __name__ == "__main__":
    with urllib.request.urlopen(f"{sys.argv[1].rstrip('/')}/object_info") as reply:
        content = json.dumps(texts(json.load(reply)), indent=1, ensure_ascii=False)
    Path(__file__).with_name("en").joinpath("nodeDefs.json").write_text(
        content + "\n", encoding="utf-8"
    )
