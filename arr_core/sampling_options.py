"""What ``generate`` and ``evaluate`` share: options for a base, an adapter, prompts and sampling, and the plan they make."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import __version__
from .base_spec import BaseSpec, resolve
from .common.command import Parser, number_from
from .common.progress import ReportProgress, no_progress
from .config.load import ConfigError
from .config.presets import PRESETS
from .config.schema import Policy, Rollout
from .data import Example, load_examples, load_split

if TYPE_CHECKING:
    from .adapters import Adapter
    from .sampling import Sampler, Side

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


@dataclass(frozen=True)
class Plan:
    """Which images are made: every prompt with every seed."""

    spec: BaseSpec
    prompts: Sequence[Example]
    seeds: Sequence[int]
    strength: float

    @property
    def jobs(self) -> list[tuple[Example, int]]:
        """The prompt and the seed of each image; its index is the image's place."""
        return [(prompt, seed) for prompt in self.prompts for seed in self.seeds]

    @contextlib.contextmanager
    def sampler(self, report: ReportProgress = no_progress) -> Iterator[Sampler]:
        """A sampler of the jobs. Raises PolicyError."""
        from .policies.loading import load_policy
        from .sampling import Sampler

        examples, seeds = zip(*self.jobs, strict=True)
        folder = self.spec.folder.resolve().parent / ".encodings"
        with contextlib.ExitStack() as stack:
            if self.spec.run is None or not folder.is_dir():  # no run has encoded its prompts here
                temporary = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
                folder = Path(stack.enter_context(temporary))
            policy = load_policy(self.spec.policy, folder)
            yield Sampler(policy, examples, seeds, self.spec.rollout, report)

    def side(
        self, sampler: Sampler, name: str, adapter: Adapter | None, files: Sequence[Path]
    ) -> Side:
        """The images of the base with ``adapter``, in a file each, which says what its image was made of."""
        from .sampling import ImageFiles, Side, adapted

        images = ImageFiles(files, self.texts(sampler.keys, adapter))
        return Side(name, lambda: adapted(sampler.policy, adapter, self.strength), images)

    def texts(self, keys: Sequence[str], adapter: Adapter | None) -> list[dict[str, str]]:
        """What each image is made of: names and hashes, never a path of this machine."""
        from .adapters import base_id

        settings = self.spec.policy
        common = {
            "base": base_id(settings.base),
            "adapter": adapter.content_hash if adapter else "none",
            "strength": self.strength if adapter else None,
            **self.spec.rollout.model_dump(include={"steps", "shift"}),
            **settings.model_dump(include={"revision", "true_cfg_scale", "dtype"}),
            "guidance_scale": settings.guidance_scale if settings.family == "flux" else None,
            "negative_prompt": settings.negative_prompt if settings.true_cfg_scale > 1 else None,
            "version": f"arr-rpo {__version__}",
        }
        texts = []
        for (prompt, seed), key in zip(self.jobs, keys, strict=True):
            source = prompt.source.name if prompt.source else None
            own = {"prompt": prompt.prompt, "source": source, "seed": seed, "encoding": key}
            texts.append(
                {
                    name: f"{value:g}" if isinstance(value, float) else str(value)
                    for name, value in (own | common).items()
                    if value is not None
                }
            )
        return texts


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
    options: argparse.Namespace, spec: BaseSpec, prompts: Sequence[Example] | None = None
) -> Plan:
    """The images that the options ask for. Raises ConfigError and DataError."""
    seeds = range(options.seed, options.seed + options.count)
    return Plan(
        spec, (prompts or _prompts(options, spec))[: options.limit], seeds, options.strength
    )


def _prompts(options: argparse.Namespace, spec: BaseSpec) -> Sequence[Example]:
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
    return load_adapter_for(spec, path, options.alpha) if path else None


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
