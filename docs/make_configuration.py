"""Writes docs/configuration.md from the models of the configuration: python docs/make_configuration.py"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from arr_core.config.presets import PRESETS  # noqa: E402
from arr_core.config.schema import TrainConfig  # noqa: E402
from arr_core.judging.profiles import Profile  # noqa: E402

TARGET = ROOT / "docs" / "configuration.md"
LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "multipleOf": "a multiple of",
}
NAMES = {
    "string": "text",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "object": "mapping",
}
LONG = 24  # characters of a value in the presets' table

HEAD = """# Configuration

<!-- Written by `python docs/make_configuration.py` from the descriptions in the code. Do not edit by hand. -->

A run is configured by a preset or a YAML file, and by flags on top:

```bash
python -m arr_core.train recommended --data.train prompts.txt --run.name mine --rollout.micro_batch 2
python -m arr_core.train my.yaml --run.seed 1
```

A YAML file has the same sections. `preset: NAME` inherits what the file leaves out. Unknown keys are refused. A run saves
every field as `config.yaml` in its folder, and that file starts the same run again.

```yaml
preset: recommended
run: {name: mine, updates: 200}
data: {train: prompts.txt}
judge: {profile: local}
```

Flags take lists as `a,b` or `[a, b]`, and `null` for no value. `python -m arr_core.train --help` prints the same
descriptions.

## Environment variables

| variable | meaning |
|---|---|
| `ARR_JUDGES` | the file of [judge profiles](judges.md), in place of `judges.yaml` in the user's configuration folder |
| `ARR_VERDICTS` | a SQLite file in which runs share verdicts, so that no run asks what another has asked |
| `ARR_PYTHON` | the Python that trains for the ComfyUI nodes, where ComfyUI's own should not |
| `HF_TOKEN` | access to a base whose licence has to be accepted on the Hugging Face hub |
| `TORCH_ELASTIC_SHUTDOWN_TIMEOUT` | seconds that `accelerate launch` waits after Ctrl-C; set 3600, so that a run can save |
"""


def kind(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    """The type of a field with its limits, in words."""
    if "$ref" in field:
        return kind(definitions[field["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(kind(member, definitions) for member in field["anyOf"]))
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if field.get("type") == "null":
        return "`null`"
    if field.get("type") == "array":
        inner = field.get("items") or (field.get("prefixItems") or [{}])[0]
        return f"list of {kind(inner, definitions)}" if inner else "list"
    name = "path" if field.get("format") == "path" else NAMES.get(field.get("type", ""), "value")
    limits = [f"{words} {field[key]}" for key, words in LIMITS.items() if key in field]
    return ", ".join([name, *limits])


def shown(value: Any) -> str:
    """A value as a flag would have it."""
    return "`" + (value if isinstance(value, str) and value.strip() else json.dumps(value)) + "`"


def table(schema: dict[str, Any], definitions: dict[str, Any], prefix: str = "") -> list[str]:
    """The fields of one model as the lines of a table."""
    lines = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for name, field in schema["properties"].items():
        required = "default" not in field and field.get("type") != "object"
        default = "from the preset" if required else shown(field.get("default", {}))
        meaning = " ".join(field.get("description", "").split()).replace("|", "\\|")
        lines.append(f"| `{prefix}{name}` | {kind(field, definitions)} | {default} | {meaning} |")
    return lines


def presets() -> list[str]:
    """What each preset sets, a column a preset."""
    fields = dict.fromkeys(
        (section, name)
        for preset in PRESETS.values()
        for section, values in preset.items()
        for name in values
    )

    def cell(preset: dict[str, Any], section: str, name: str) -> str:
        if name not in preset.get(section, {}):
            return ""
        value = preset[section][name]
        if isinstance(value, list | tuple) and len(json.dumps(value)) > LONG:
            return f"{len(value)} modules"
        return shown(value)

    lines = ["| field | " + " | ".join(PRESETS) + " |", "|---" * (len(PRESETS) + 1) + "|"]
    for section, name in sorted(
        fields, key=lambda key: list(TrainConfig.model_fields).index(key[0])
    ):
        cells = [cell(preset, section, name) for preset in PRESETS.values()]
        lines.append(f"| `{section}.{name}` | " + " | ".join(cells) + " |")
    return lines


def page() -> str:
    """The whole page."""
    schema = TrainConfig.model_json_schema()
    definitions = schema["$defs"]
    lines = [
        HEAD,
        "## Presets",
        "",
        "`flux` and `qwen-image-edit` are the published settings. `recommended` and `recommended-edit` take what the",
        "[results](results.md) favour. `miniature` and `miniature-edit` train the embedded models in minutes on a CPU. An empty",
        "cell is the field's default.",
        "",
        *presets(),
    ]
    for section, field in schema["properties"].items():
        reference = field.get("$ref") or field["allOf"][0]["$ref"]
        model = definitions[reference.rpartition("/")[2]]
        lines += ["", f"## {section}", "", *table(model, definitions, f"{section}.")]
    profile = Profile.model_json_schema()
    lines += [
        "",
        "## Judge profiles",
        "",
        "The fields of a profile in `judges.yaml`; see [judges](judges.md). `openai:`, `local:` and so on name the kinds",
        "that a field is for.",
        "",
        *table(profile, profile.get("$defs", {})),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
    print(TARGET)
