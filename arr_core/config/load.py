"""A run's configuration: in from a preset, a YAML file and flags; out as YAML, a hash, differences and help.

The fields themselves, with their limits and descriptions, are in ``settings.py``.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from ..common.errors import ArrError
from .presets import PRESETS
from .schema import (
    TrainConfig,
)

# What changes how, where or how long a run computes, and not what it draws or asks.
FREE_ON_RESUME = frozenset(
    {
        "run.updates",
        "run.output_dir",
        "run.name",
        "run.trackers",
        "run.save_every",
        "run.keep_checkpoints",
        "run.threads",
        "policy.device",
        "policy.sharded",
        "policy.gradient_checkpointing",
        "rollout.micro_batch",
        "judge.timeout_s",
        "judge.retries",
        "judge.concurrency",
    }
)


class ConfigError(ArrError, ValueError):
    """A configuration that cannot run: one line that says where, which field, what was expected and what came."""


def load_config(source: str, overrides: Iterable[str] = ()) -> TrainConfig:
    """The configuration of a preset or YAML file, with flags applied on top.

    source: a preset's name, or a YAML file; its key ``preset: NAME`` inherits what the file leaves out.
    overrides: ``["--section.field", "value", "--section.field=value", ...]``; a list is written ``[a, b]`` or ``a,b``,
    and ``null`` empties a field that may be empty.
    Raises ConfigError.
    """
    given = PRESETS[source] if source in PRESETS else _read_yaml(Path(source))
    values = {section: dict(given.get(section, {})) for section in TrainConfig.model_fields}
    flags = _parse_overrides(overrides)
    for dotted, value in flags.items():
        section, field = dotted.split(".")
        values[section][field] = value
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_describe(error, source, flags)) from None


def save_config(config: TrainConfig, path: str | Path) -> None:
    """Writes every field as YAML, so that ``load_config(path)`` gives an equal configuration."""
    text = yaml.safe_dump(
        config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120
    )
    Path(path).write_text(text, encoding="utf-8")


def config_hash(config: TrainConfig) -> str:
    """16 hexadecimal digits, equal for two configurations exactly if ``changed_fields`` finds nothing."""
    return hashlib.sha256(json.dumps(_fixed_values(config), sort_keys=True).encode()).hexdigest()[
        :16
    ]


def changed_fields(a: TrainConfig, b: TrainConfig) -> list[str]:
    """Dotted names of the fields that differ, without those that may change when a run is resumed."""
    before, after = _fixed_values(a), _fixed_values(b)
    return [dotted for dotted in before if before[dotted] != after[dotted]]


def field_help(preset: str = "flux") -> str:
    """Every field with its type, limits, value in the preset and description, as text for ``--help``."""
    lines, current = [], None
    for dotted, info in _fields().items():
        section, name = dotted.split(".")
        if section != current:
            lines, current = [*lines, "", section], section
        value = (
            PRESETS[preset].get(section, {}).get(name, ... if info.is_required() else info.default)
        )
        shown = "required" if value is ... else f"default {_show(value)}"
        lines.append(
            f"  --{dotted}  ({', '.join([_type_name(info.annotation), *_limits(info), shown])})"
        )
        lines += textwrap.wrap(
            info.description, 110, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    return "\n".join(lines[1:])


def _fields() -> dict[str, FieldInfo]:
    return {
        f"{section}.{name}": field
        for section, info in TrainConfig.model_fields.items()
        for name, field in info.annotation.model_fields.items()
    }


def _fixed_values(config: TrainConfig) -> dict[str, Any]:
    return {
        f"{section}.{name}": value
        for section, values in config.model_dump(mode="json").items()
        for name, value in values.items()
        if f"{section}.{name}" not in FREE_ON_RESUME
    }


class _Loader(yaml.SafeLoader):
    """YAML in which no key may stand twice, as YAML itself demands: the second would silently take the first's place."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        if twice := next(
            (key for at, (key, _) in enumerate(node.value) if key.value in keys[:at]), None
        ):
            raise yaml.constructor.ConstructorError(
                None, None, f"{twice.value} stands there twice", twice.start_mark
            )
        return super().construct_mapping(node, deep)


def _preset(name: Any, where: str) -> dict:
    if not isinstance(name, str) or name not in PRESETS:
        near = _near(str(name), PRESETS)
        raise ConfigError(
            f"{where}preset: expected one of {', '.join(PRESETS)}, came {_show(name)}{near}"
        )
    return PRESETS[name]


def _read_yaml(path: Path) -> dict:
    """The file's sections over those of the preset that it names."""
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: expected a YAML file or one of the presets {', '.join(PRESETS)}; there is no such "
            f"file{_near(str(path), PRESETS)}"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{path}: expected a YAML file that can be read, came {error.strerror}"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: expected YAML in UTF-8, came other bytes") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        line = f":{error.problem_mark.line + 1}" if getattr(error, "problem_mark", None) else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{path}{line}: expected YAML: {problem}") from None
    if not isinstance(loaded, dict):
        raise ConfigError(
            f"{path}: expected sections such as 'policy:' and 'data:', came {_show(loaded)}"
        )
    values = dict(_preset(loaded.pop("preset"), f"{path}: ")) if "preset" in loaded else {}
    for section, fields in loaded.items():
        if section not in TrainConfig.model_fields:
            raise ConfigError(f"{path}: {section}: unknown section{_near_field(str(section))}")
        if not isinstance(fields, dict | None):
            raise ConfigError(f"{path}: {section}: expected fields below it, came {_show(fields)}")
        values[section] = {
            **values.get(section, {}),
            **{str(name): value for name, value in (fields or {}).items()},
        }
    return values


def _parse_overrides(overrides: list[str]) -> dict[str, Any]:
    """Dotted field -> value, of command-line words."""
    fields, values, words = _fields(), {}, list(overrides)
    while words:
        flag, equals, text = words.pop(0).partition("=")
        dotted = flag.removeprefix("--")
        if not flag.startswith("--"):
            raise ConfigError(f"{flag}: expected --section.field value")
        if dotted not in fields:
            raise ConfigError(f"{flag}: unknown field{_near_field(dotted)}")
        if not equals:
            if not words or words[0].startswith("--"):
                raise ConfigError(
                    f"{flag}: expected a value after it, came {_show(words[0]) if words else 'nothing'}"
                )
            text = words.pop(0)
        values[dotted] = _parse_value(flag, fields[dotted].annotation, text)
    return values


def _parse_value(flag: str, annotation: Any, text: str) -> Any:
    members = _members(annotation)
    if type(None) in members and text in ("null", "none", "None"):
        return None
    if not any(get_origin(member) in (list, tuple) for member in members):
        return text
    try:
        return yaml.safe_load(text if text.startswith("[") else f"[{text}]")
    except (yaml.YAMLError, ValueError):
        raise ConfigError(f"{flag}: expected a list such as [a, b], came {_show(text)}") from None


def _describe(error: ValidationError, source: str, flags: dict[str, Any]) -> str:
    """One line: the first three faults, each with its place, what was expected and what came."""
    faults = {}
    for fault in error.errors():
        dotted = ".".join(str(part) for part in fault["loc"][:2])
        where = f"--{dotted}" if dotted in flags else f"{source}: {dotted}" if dotted else source
        message = re.sub(
            r"^Value error, |^Input should be |,? (unable to|got|after validation)\b.*",
            "",
            fault["msg"],
        )
        message = re.sub(r"^(List|String) should have", r"a \1 with", message)
        if fault["type"] == "extra_forbidden":
            message = f"unknown field{_near_field(dotted)}"
        elif fault["type"] == "missing":
            message = f"expected a value, came nothing (give it with --{dotted})"
        elif dotted:
            if not message.startswith("expected"):
                message = f"expected {message}".replace("List", "list").replace("String", "text")
            message += f", came {_show(fault['input'])}"
        faults.setdefault(dotted, f"{where}: {message}")
    more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
    if source not in PRESETS and any(fault["type"] == "missing" for fault in error.errors()):
        more += "; 'preset: NAME' in the file fills in what it leaves out"
    return "; ".join(list(faults.values())[:3]) + more


def _near(word: str, choices: Any) -> str:
    matches = difflib.get_close_matches(word, list(choices), n=1) or [
        name for name in choices if name.startswith(word)
    ]
    return f"; did you mean {matches[0]}?" if word and matches else ""


def _near_field(dotted: str) -> str:
    """The nearest dotted name, by the whole of it or by its last part alone."""
    fields = _fields()
    by_last = {name.split(".")[1]: name for name in reversed(fields)}
    matches = difflib.get_close_matches(dotted.split(".")[-1], by_last, n=1, cutoff=0.75)
    return _near(dotted, fields if "." in dotted else TrainConfig.model_fields) or (
        f"; did you mean {by_last[matches[0]]}?" if matches else ""
    )


def _show(value: Any) -> str:
    text = value if isinstance(value, Path) else json.dumps(value, ensure_ascii=False, default=str)
    return str(text) if len(str(text)) <= 80 else f"{str(text)[:77]}..."


def _members(annotation: Any) -> tuple:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _type_name(annotation: Any) -> str:
    names = []
    for member in _members(annotation):
        origin, arguments = get_origin(member), get_args(member)
        if origin is Literal:
            names.append(" | ".join(arguments))
        elif origin is Annotated:
            names.append(_type_name(arguments[0]))
        elif origin is list:
            names.append(f"list of {_type_name(arguments[0])}")
        elif origin is tuple:
            names.append(f"{len(arguments)} of {_type_name(arguments[0])}")
        else:
            names.append(
                {str: "text", Path: "path", type(None): "null"}.get(member, member.__name__)
            )
    return " or ".join(names)


def _limits(info: FieldInfo) -> list[str]:
    words = {
        "ge": "at least",
        "gt": "above",
        "le": "at most",
        "lt": "below",
        "multiple_of": "a multiple of",
    }
    return [
        f"{word} {getattr(part, name)}"
        for part in info.metadata
        for name, word in words.items()
        if getattr(part, name, None) is not None
    ]
