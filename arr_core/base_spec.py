"""What SOURCE stands for on a command line: a run, a preset, the folder of a pipeline, or a Hugging Face id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from .common.errors import describe_validation_error
from .config.load import ConfigError, load_config
from .config.presets import PRESETS
from .config.schema import Judge, Policy, Rollout, TrainConfig

CARD_STEPS = 30

Section = TypeVar("Section", bound=BaseModel)


@dataclass(frozen=True)
class BaseSpec:
    """A base, how it is sampled and who judges it; and the run that it comes from, with the run's folder."""

    policy: Policy
    rollout: Rollout
    judge: Judge
    run: TrainConfig | None = None
    folder: Path = Path()

    @property
    def task(self) -> Literal["t2i", "edit"]:
        """What the base does."""
        return "edit" if self.policy.family == "qwen-image-edit" else "t2i"


def resolve(name: str, given: Mapping[str, Any]) -> BaseSpec:
    """What ``name`` stands for. ``given`` are fields of ``policy`` and ``rollout`` that replace its own.

    A run samples as in its training, everything else with the model card's steps. Raises ConfigError and PolicyError.
    """
    config, folder = None, Path(name)
    if (folder / "config.yaml").is_file():
        config = load_config(str(folder / "config.yaml"))
        sections = config.model_dump()
    else:
        given = {"steps": CARD_STEPS, **given}
        if name in PRESETS:
            sections = PRESETS[name]
        else:
            sections = PRESETS[_family(name, given.get("revision"))]
            given["base"] = name
    return BaseSpec(
        _section(Policy, sections["policy"], given),
        _section(Rollout, sections["rollout"], given),
        Judge(**sections["judge"]),
        config,
        folder,
    )


def _family(base: str, revision: str | None) -> str:
    """The family of a pipeline's folder or of a Hugging Face id, which its index tells. It is a preset too."""
    from .policies.loading import FAMILIES, PolicyError, read_index

    if Path(base).is_dir() and not (Path(base) / "model_index.json").is_file():
        raise PolicyError(
            f"{base}: expected the folder of a run (config.yaml) or of a diffusers pipeline "
            "(model_index.json), got one with neither"
        )
    try:
        pipeline = read_index(base, revision)["_class_name"]
    except PolicyError as fault:
        raise PolicyError(
            f"SOURCE: expected a run, one of {', '.join(PRESETS)}, or a base; {fault}"
        ) from None
    for family, policy in FAMILIES.items():
        if pipeline in policy.pipelines:
            return family
    raise PolicyError(
        f"SOURCE: expected a base of FLUX or Qwen-Image-Edit, got {base}, a {pipeline}"
    )


def _section(kind: type[Section], values: Mapping[str, Any], given: Mapping[str, Any]) -> Section:
    chosen = {name: value for name, value in given.items() if name in kind.model_fields}
    try:
        return kind.model_validate({**values, **chosen})
    except ValidationError as error:
        faults = describe_validation_error(error, lambda field: "--" + field.replace("_", "-"))
        raise ConfigError(faults) from None
