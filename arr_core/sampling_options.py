"""The options that ``generate`` and ``evaluate`` share: a base, an adapter, prompts, and how images are sampled."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .base_spec import BaseSpec, resolve
from .common.command import Parser, number_from
from .config import PRESETS, ConfigError, Policy, Rollout
from .data import Example, load_examples, load_split

if TYPE_CHECKING:
    from .adapters import Adapter
    from .sampling import Plan

# Options that replace a field of the same name in the configuration of the base.
FIELDS = (
    "guidance_scale",
    "true_cfg_scale",
    "negative_prompt",
    "shift",
    "height",
    "width",
    "micro_batch",
    "dtype",
    "device",
    "revision",
)


def add_options(parser: Parser, *, steps: int | None, output: str) -> None:
    """Add the options to ``parser``. None as ``steps``: as in a run's training."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help=f"a run's folder; a preset, whose base is taken ({', '.join(PRESETS)}); a folder of a diffusers pipeline; "
        "or a Hugging Face id such as black-forest-labs/FLUX.1-dev",
    )
    what = parser.add_argument_group("prompts")
    what.add_argument(
        "--prompts",
        metavar="FILE",
        help="prompts (.txt, one a line; .jsonl; .json) or edits (.jsonl; .json), for example "
        "miniature:data/prompts_heldout.txt (default: a run's held-out prompts)",
    )
    what.add_argument("--limit", type=number_from(1), metavar="N", help="only the first N prompts")
    what.add_argument(
        "--seed", type=number_from(0, most=2**62), default=0, metavar="N", help="seed (default: 0)"
    )
    what.add_argument(
        "--count",
        type=number_from(1),
        default=1,
        metavar="K",
        help="seeds for each prompt: N, N+1, ... (default: 1)",
    )
    who = parser.add_argument_group("adapter")
    who.add_argument(
        "--adapter",
        type=Path,
        metavar="PATH",
        help="PEFT folder or .safetensors file in any usual layout (default: that of the run)",
    )
    who.add_argument(
        "--alpha",
        type=float,
        metavar="X",
        help="lora_alpha it was trained with, for a file that does not record its strength",
    )
    who.add_argument(
        "--strength",
        type=number_from(-100, float, most=100),
        default=1.0,
        metavar="X",
        help="factor of an adapter's effect: 0 is the base, 1 the adapter as trained (default: 1)",
    )
    how = parser.add_argument_group(
        "sampling (default: as in the run's training, else as on the model card)"
    )
    how.add_argument(
        "--steps",
        default=steps,
        metavar="N",
        help=f"sampling steps (default: {steps or 'as in training, else 30'})",
    )
    for name in FIELDS:
        field = Policy.model_fields.get(name) or Rollout.model_fields[name]
        how.add_argument(f"--{name.replace('_', '-')}", metavar="VALUE", help=field.description)
    parser.add_argument("--output", type=Path, metavar="DIR", help=output)


def spec_of(options: argparse.Namespace) -> BaseSpec:
    """What SOURCE stands for, with the other options over it. Raises ConfigError and PolicyError."""
    from .policies.loading import PipelineSource

    given = {name: getattr(options, name) for name in (*FIELDS, "steps")}
    spec = resolve(
        options.source, {name: value for name, value in given.items() if value is not None}
    )
    if options.guidance_scale is not None and spec.policy.family != "flux":
        raise ConfigError(
            "--guidance-scale: expected a FLUX base, which alone has embedded guidance, got "
            f"{spec.policy.base}; give --true-cfg-scale instead"
        )
    PipelineSource(spec.policy)  # the base and the device are there
    return spec


def plan_of(
    options: argparse.Namespace, spec: BaseSpec, examples: Sequence[Example] | None = None
) -> Plan:
    """The images that the options ask for. Raises ConfigError and DataError."""
    from .sampling import Plan

    encodings = spec.folder.resolve().parent / ".encodings"  # of the run, if it is one
    return Plan(
        spec.policy,
        spec.rollout,
        (examples or _examples(options, spec))[: options.limit],
        range(options.seed, options.seed + options.count),
        options.strength,
        encodings if spec.run and encodings.is_dir() else None,
    )


def _examples(options: argparse.Namespace, spec: BaseSpec) -> Sequence[Example]:
    if options.prompts is not None:
        return load_examples(options.prompts, spec.task)
    if spec.run is None:
        raise ConfigError("--prompts: expected prompts, got none; only a run brings its own")
    data = spec.run.data
    _, held_out = load_split(data.train, data.validation, data.validation_count, spec.task)
    return held_out[: spec.run.validation.count]


def adapter_of(options: argparse.Namespace, spec: BaseSpec) -> Adapter | None:
    """The adapter of the options, else that of the run. Raises AdapterError."""
    from .adapters import AdapterError

    path = options.adapter
    if path is None and spec.run is not None:
        path = spec.folder / "adapter"
        if not path.is_dir():
            raise AdapterError(
                f"{path}: expected the adapter that a run writes at its first checkpoint, got none; "
                "let the run get that far, or give --adapter"
            )
    return path and load_adapter_for(spec, path, options.alpha)


def load_adapter_for(spec: BaseSpec, path: Path, alpha: float | None = None) -> Adapter:
    """The adapter at ``path``. Raises AdapterError, for one of another family too."""
    from .adapters import AdapterError, load_adapter

    adapter = load_adapter(path, alpha)
    if adapter.family not in ("unknown", spec.policy.family):
        raise AdapterError(
            f"{path}: expected an adapter of {spec.policy.family} for {spec.policy.base}, got one of "
            f"{adapter.family}; give the base it was trained on as SOURCE"
        )
    return adapter
