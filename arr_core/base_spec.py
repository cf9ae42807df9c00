"""What SOURCE stands for on a command line: a run, a preset, the folder of a pipeline, or a Hugging Face id."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from .config import PRESETS, ConfigError, Policy, TrainConfig, load_config

PUBLISHED = ("flux", "qwen-image-edit")  # one preset a family, with its published settings


class Run(NamedTuple):
    """A run as it lies on disk: its folder and its configuration."""

    folder: Path
    config: TrainConfig


class Source(NamedTuple):
    """A base, how it is sampled and judged where it comes from, and the run that it is, if it is one."""

    settings: Policy
    shift: float
    micro_batch: int
    steps: int  # as in the run's training, else the card's 30
    judge: dict[str, Any]  # the section of the run or the preset
    run: Run | None


def resolve(name: str, given: dict[str, Any]) -> Source:
    """What ``name`` stands for, with the fields ``given`` over its policy's. Raises ConfigError and PolicyError."""
    folder = Path(name)
    if (folder / "config.yaml").is_file():
        config = load_config(str(folder / "config.yaml"))
        settings, rollout = _policy({**config.policy.model_dump(), **given}), config.rollout
        return Source(
            settings,
            rollout.shift,
            rollout.micro_batch,
            rollout.steps,
            config.judge.model_dump(),
            Run(folder, config),
        )
    preset = PRESETS[name if name in PRESETS else _preset_of(name, given)]
    base = {} if name in PRESETS else {"base": name}
    return Source(
        _policy({**preset["policy"], **base, **given}),
        3.0,
        preset["rollout"]["micro_batch"],
        30,
        preset["judge"] if name in PRESETS else {},
        None,
    )


def _preset_of(base: str, given: dict[str, Any]) -> str:
    """The preset with the published settings of a folder's or a Hugging Face id's family, which its index tells."""
    from .policies.loading import PipelineSource, PolicyError

    if Path(base).is_dir() and not (Path(base) / "model_index.json").is_file():
        raise PolicyError(
            f"{base}: expected the folder of a run (config.yaml) or of a diffusers pipeline "
            "(model_index.json), found neither in it"
        )
    faults = []
    for name in PUBLISHED:
        try:
            PipelineSource(
                _policy({**PRESETS[name]["policy"], **given, "base": base, "device": "cpu"})
            )
        except PolicyError as fault:
            faults.append(str(fault))
        else:
            return name
    told_apart = len(set(faults)) > 1  # by their families
    expected = (
        "a base of FLUX or Qwen-Image-Edit"
        if told_apart
        else f"a run, one of {', '.join(PRESETS)}, or a base"
    )
    raise PolicyError(f"SOURCE: expected {expected}; {faults[0]}")


def _policy(values: dict[str, Any]) -> Policy:
    try:
        return Policy.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        message = re.sub(r"^(Value error, expected|Input should be) ", "", fault["msg"])
        option = str(fault["loc"][0]).replace("_", "-")
        raise ConfigError(f"--{option}: expected {message}, came {fault['input']}") from None
