"""A run's configuration: in from a preset, a YAML file and flags; out as YAML, a hash and differences.

The fields themselves, with their limits and descriptions, are in ``schema.py``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from ..common.command import Parser
from ..common.errors import ArrError, describe_validation_error, did_you_mean, show
from ..common.files import write_text
from ..common.yaml import read_yaml
from .presets import PRESETS
from .schema import Collapse, Section, TrainConfig

Fields = Mapping[str, Mapping[str, Any]]

# What changes how, where or how long a run computes, and not what it draws, asks or learns.
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
        "judge.outage_hours",
        *(f"collapse.{name}" for name in Collapse.model_fields),
    }
)
LIMITS = {
    "ge": "at least",
    "gt": "above",
    "le": "at most",
    "lt": "below",
    "multiple_of": "multiple of",
}


class ConfigError(ArrError, ValueError):
    """A configuration that cannot run: one line that says where, which field, what was expected and what it got."""


class FieldParser(Parser):
    """A parser to which ``parse_flags`` adds the fields. Raises ConfigError."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see --help")


def load_config(source: str, overrides: Iterable[str] = ()) -> TrainConfig:
    """The configuration of a preset or YAML file with flags (``["--section.field", "value", ...]``). Raises ConfigError."""
    return make_config(source, parse_flags(overrides, FieldParser(allow_abbrev=False))[1])


def make_config(source: str, fields: Fields) -> TrainConfig:
    """The configuration of a preset or YAML file, with ``fields`` (by section) over its own. Raises ConfigError.

    A YAML file's key ``preset: NAME`` inherits what the file leaves out.
    """
    given = PRESETS[source] if source in PRESETS else _read_yaml(Path(source))
    sections: Fields = {section: {} for section in TrainConfig.model_fields}
    try:
        return TrainConfig.model_validate(_merge(_merge(sections, given), fields))
    except ValidationError as error:
        raise ConfigError(_describe(error, source, fields)) from None


def parse_flags(words: Iterable[str], parser: FieldParser) -> tuple[argparse.Namespace, Fields]:
    """(the parser's own options, the fields by section) of a command line. Adds the fields to the parser.

    A list is written ``a,b`` or ``[a, b]``; ``null`` empties a field that may be empty. Raises ConfigError.
    """
    # Not above: ComfyUI loads the presets while it starts.
    from pydantic_settings import CliSettingsSource, SettingsError

    settings = CliSettingsSource(
        TrainConfig,  # pyright: ignore[reportArgumentType] any model will do
        root_parser=parser,
        add_argument_method=_add_field,
        cli_avoid_json=True,
        cli_enforce_required=False,
        cli_hide_none_type=True,
        cli_parse_none_str="null",
    )
    options, unknown = parser.parse_known_args(list(words))
    if unknown:
        flag = unknown[0].partition("=")[0]
        if not flag.startswith("--"):
            raise ConfigError(f"{flag}: expected --section.field value")
        raise ConfigError(f"{flag}: unknown field{did_you_mean(flag[2:], _names())}")
    try:
        values = settings(parsed_args=options)()
    except SettingsError as error:
        raise ConfigError(str(error)) from None
    # A list that is null arrives as a list of null.
    return options, {
        section: {name: None if value == [None] else value for name, value in fields.items()}
        for section, fields in values.items()
    }


def save_config(config: TrainConfig, path: str | Path) -> None:
    """Writes every field as YAML, so that ``load_config(path)`` gives an equal configuration."""
    values = config.model_dump(mode="json")
    write_text(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120))


def config_hash(config: TrainConfig) -> str:
    """16 hexadecimal digits, equal for two configurations exactly if ``changed_fields`` finds nothing."""
    text = json.dumps(_fixed_values(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def changed_fields(a: TrainConfig, b: TrainConfig) -> list[str]:
    """Dotted names of the fields that differ, without those that may change when a run is resumed."""
    before, after = _fixed_values(a), _fixed_values(b)
    return [dotted for dotted in before if before[dotted] != after[dotted]]


def _fields() -> dict[str, FieldInfo]:
    """Every field by its dotted name."""
    return {
        f"{section}.{name}": field
        for section, info in TrainConfig.model_fields.items()
        for name, field in cast("type[Section]", info.annotation).model_fields.items()
    }


def _names() -> list[str]:
    return [*TrainConfig.model_fields, *_fields()]


def _fixed_values(config: TrainConfig) -> dict[str, Any]:
    return {
        f"{section}.{name}": value
        for section, values in config.model_dump(mode="json").items()
        for name, value in values.items()
        if f"{section}.{name}" not in FREE_ON_RESUME
    }


def _merge(base: Fields, over: Mapping[str, Any]) -> dict[str, Any]:
    """Sections with the fields of ``over`` over those of ``base``. What is no section is left for the validation."""
    merged = dict(base)
    for section, values in over.items():
        before = base.get(section, {})
        if isinstance(before, Mapping) and isinstance(values, Mapping | None):
            merged[section] = {**before, **(values or {})}
        elif isinstance(before, Mapping):
            merged[section] = values
    return merged


def _add_field(group: Any, flag: str, **options: Any) -> None:
    """Add the flag of a field to a group of the parser, with its limits in the help."""
    field = _fields().get(flag.removeprefix("--"))
    limits = [
        f"{words} {getattr(part, name)}"
        for part in (field.metadata if field else ())
        for name, words in LIMITS.items()
        if getattr(part, name, None) is not None
    ]
    if limits:
        options["help"] += f" ({', '.join(limits)})"
    group.add_argument(flag, **options)


def _read_yaml(path: Path) -> Fields:
    """The file's sections over those of the preset that it names."""
    if not path.exists():
        raise ConfigError(
            f"{path}: expected a YAML file or one of the presets {', '.join(PRESETS)}; there is no such "
            f"file{did_you_mean(str(path), PRESETS)}"
        )
    loaded = read_yaml(path, "YAML", ConfigError)
    if not isinstance(loaded, dict):
        raise ConfigError(
            f"{path}: expected sections such as 'policy:' and 'data:', got {show(loaded)}"
        )
    preset = loaded.pop("preset", None)
    if preset is None:
        return loaded
    if str(preset) not in PRESETS:
        near = did_you_mean(str(preset), PRESETS)
        raise ConfigError(
            f"{path}: preset: expected one of {', '.join(PRESETS)}, got {show(preset)}{near}"
        )
    return _merge(PRESETS[preset], loaded)


def _describe(error: ValidationError, source: str, flags: Fields) -> str:
    """One line, with every fault named as it was given: a flag, or a field of the preset or file."""

    def name(dotted: str) -> str:
        section, _, rest = dotted.partition(".")
        field = rest.partition(".")[0]
        if field in flags.get(section, ()):
            return f"--{section}.{field}"
        return ": ".join(filter(None, (source, f"{section}.{field}".rstrip("."))))

    text = describe_validation_error(error, name, _names())
    missing = [fault["loc"] for fault in error.errors() if fault["type"] == "missing"]
    if missing and source in PRESETS:
        return f"{text}; give it with --{'.'.join(map(str, missing[0]))}"
    return f"{text}; 'preset: NAME' in the file fills in what it leaves out" if missing else text
