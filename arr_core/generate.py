"""The command ``python -m arr_core.generate``: images and edits from a base and an adapter, and a grid to compare them.

Exit status: 0 done; 2 bad input, with one line on stderr that says what was expected, what came and what to do next.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .base_spec import Run, Source, resolve
from .common.command import Parser, new_folder, number_from, run
from .config import PRESETS, ConfigError, Policy
from .data import DataError, Example, half_a_letter, image_fault, load_examples, load_split

if TYPE_CHECKING:
    from .adapters import Adapter
    from .sampling import Plan

OVERRIDES = (
    "revision",
    "dtype",
    "device",
    "height",
    "width",
    "guidance_scale",
    "true_cfg_scale",
    "negative_prompt",
)
EXAMPLES = """\
examples:
  python -m arr_core.generate runs/mine
      base and adapter side by side on the run's held-out prompts
  python -m arr_core.generate flux --adapter ARR-FLUX.1-dev --prompt "two blue cups on a table" --count 4 --compare
      four seeds, each without and with the adapter
  python -m arr_core.generate Qwen/Qwen-Image-Edit --adapter mine.safetensors --prompt "make the sky red" --source a.png
      an edit of one image
  python -m arr_core.generate miniature --prompts miniature:data/prompts_heldout.txt
      the embedded world
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    options = _parser().parse_args(words)
    return run(
        lambda: _generate(make_plan(options, source_of(options))),
        stopped="stopped; the images that were finished are kept",
    )


def source_of(options: argparse.Namespace) -> Source:
    """What the option SOURCE stands for, with the other options over it. Raises ConfigError and PolicyError."""
    return resolve(
        options.source,
        {name: getattr(options, name) for name in OVERRIDES if getattr(options, name) is not None},
    )


def make_plan(options: argparse.Namespace, source: Source) -> Plan:
    """What the options ask for, checked as far as it can be before a model loads.

    Raises AdapterError, ConfigError, DataError and PolicyError.
    """
    from .sampling import Plan

    settings, run = source.settings, source.run
    _check_device(settings.device)
    if options.guidance_scale is not None and settings.family != "flux":
        raise ConfigError(
            "--guidance-scale: expected a FLUX base, which alone has embedded guidance; "
            f"came {settings.base}, give --true-cfg-scale instead"
        )
    plan = Plan(
        settings=settings,
        examples=_examples(options, settings, run),
        output=options.output or new_folder("generated"),
        seeds=range(options.seed, options.seed + options.count),
        adapter=_adapter(options, settings, run),
        strength=options.strength,
        compare=run is not None if options.compare is None else options.compare,
        steps=options.steps or source.steps,
        shift=options.shift or source.shift,
        micro_batch=options.micro_batch or source.micro_batch,
        encodings=_encodings(run),
    )
    if options.compare and plan.adapter is None:
        raise ConfigError("--compare: expected an --adapter to compare with the base, came none")
    if plan.output.exists() and not plan.output.is_dir():
        raise ConfigError(f"--output: expected a folder, came the file {plan.output}")
    for file in plan.files():
        if file.exists():
            raise ConfigError(
                f"{file}: expected a new file, found one that is there already; give another --output"
            )
    return plan


def _generate(plan: Plan) -> int:
    from tqdm import tqdm

    from .adapters import base_warning
    from .sampling import generate

    if plan.adapter and (
        warning := base_warning(plan.adapter.family, plan.adapter.base, plan.settings.base)
    ):
        print(f"warning: {warning}", file=sys.stderr)
    bar = None

    def watch(done: int, total: int) -> None:
        nonlocal bar
        bar = bar or tqdm(
            total=total, unit="image", desc="generate"
        )  # once the model is loaded: it times sampling
        bar.update(done - bar.n)

    try:
        files = generate(plan, watch)
    finally:
        if bar is not None:
            bar.close()
    grids = [file.name for file in files if file.name.startswith("grid")]
    images = len(files) - len(grids)
    print(f"wrote {images} image{'s' * (images > 1)} and {', '.join(grids)} to {plan.output}")
    return 0


def _check_device(device: str) -> None:
    import torch

    kind, _, number = device.partition(":")
    if kind in ("cuda", "xpu", "mps"):
        there = torch.get_device_module(kind)
        if not there.is_available() or int(number or 0) >= there.device_count():
            raise ConfigError(
                f"--device: expected a device of this machine, came {device}; auto takes the best one"
            )


def _adapter(options: argparse.Namespace, settings: Policy, run: Run | None) -> Adapter | None:
    from .adapters import AdapterError, load_adapter

    path = options.adapter
    if path is None and run is None:
        return None
    if path is None:
        path = run.folder / "adapter"
        if not path.is_dir():
            raise AdapterError(
                f"{path}: expected the adapter that a run writes at its first checkpoint, found none; "
                "let the run get that far, or give --adapter"
            )
    adapter = load_adapter(path, options.alpha)
    if adapter.family not in ("unknown", settings.family):
        raise AdapterError(
            f"{path}: expected an adapter of {settings.family} for {settings.base}, found one of "
            f"{adapter.family}; give the base it was trained on as SOURCE"
        )
    return adapter


def _examples(options: argparse.Namespace, settings: Policy, run: Run | None) -> list[Example]:
    edits = settings.family == "qwen-image-edit"
    if options.source_image is not None and (options.prompt is None or not edits):
        raise ConfigError(
            "--source: expected --prompt and a base that edits images, came "
            f"{'no --prompt' if edits else f'{settings.base}, which makes them from text'}"
        )
    if options.prompt is not None:
        examples = [_single(options.prompt, options.source_image, edits)]
    elif options.prompts is not None:
        examples = load_examples(options.prompts, "edit" if edits else "t2i")
    elif run is not None:
        data, config = run.config.data, run.config
        _, held_out = load_split(data.train, data.validation, data.validation_count, config.task)
        examples = held_out[: config.validation.count]
    else:
        raise ConfigError("expected --prompt TEXT or --prompts FILE; only a run brings its own")
    return examples[: options.limit]


def _single(prompt: str, source: Path | None, edits: bool) -> Example:
    if not prompt.strip():
        raise ConfigError("--prompt: expected a text that is not empty")
    if half_a_letter(prompt):
        raise ConfigError(
            f"--prompt: expected text that UTF-8 can write, came {ascii(prompt)[:80]}"
        )
    if edits and source is None:
        raise ConfigError(
            "--prompt: expected --source IMAGE beside it, since this base edits images"
        )
    if source is not None and (fault := image_fault(source)):
        raise DataError(
            f"--source: expected an image of at least 16 pixels a side, came {fault}: {source}"
        )
    return Example(prompt.strip(), source)


def _encodings(run: Run | None) -> Path | None:
    """The run's own encodings, where they are still there: its prompts need no text encoder then."""
    folder = run.folder.resolve().parent / ".encodings" if run else None
    return folder if folder and folder.is_dir() else None


def add_sampling(parser: argparse.ArgumentParser, steps: int | None = 30) -> None:
    """Add the options that say how images are sampled. ``steps`` is their default, None a run's own or 30."""
    how = parser.add_argument_group("how to sample")
    how.add_argument(
        "--steps",
        type=number_from(1),
        default=steps,
        metavar="N",
        help=f"sampling steps (default: {steps or 'as in training, else 30'})",
    )
    how.add_argument(
        "--guidance-scale", type=float, metavar="X", help="FLUX: embedded guidance (default: 3.5)"
    )
    how.add_argument(
        "--true-cfg-scale",
        type=float,
        metavar="X",
        help="guidance by a second, negative call; 1 is off (default: 1, or the run's)",
    )
    how.add_argument("--negative-prompt", metavar="TEXT", help="text of the second call")
    how.add_argument(
        "--shift",
        type=number_from(1e-3, float),
        metavar="X",
        help="static shift of the noise schedule (default: 3, or the run's)",
    )
    how.add_argument(
        "--height",
        type=int,
        metavar="N",
        help="pixels, a multiple of 16 (default: 512, or the run's)",
    )
    how.add_argument(
        "--width",
        type=int,
        metavar="N",
        help="pixels; an edit keeps its source's shape at the area of height x width",
    )
    how.add_argument(
        "--micro-batch",
        type=number_from(1),
        metavar="N",
        help="images in one call (default: as in training); lower it when memory runs out",
    )
    how.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="number type of the base (default: bfloat16)",
    )
    how.add_argument(
        "--device", metavar="NAME", help="auto, cpu, mps, cuda, cuda:1, xpu (default: auto)"
    )
    how.add_argument(
        "--revision", metavar="NAME", help="branch, tag or commit of a Hugging Face base"
    )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m arr_core.generate",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXAMPLES,
        allow_abbrev=False,
        description="Make images (FLUX.1) or edits (Qwen-Image-Edit) from a base and an adapter, at the settings of\n"
        "the published model card unless told otherwise, and a grid picture of them all.",
        usage="python -m arr_core.generate SOURCE [--prompt TEXT [--source IMAGE] | --prompts FILE] [options]",
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help=(
            f"a run's folder; a preset, whose base is taken ({', '.join(PRESETS)}); a folder of a diffusers pipeline; or a "
            "Hugging Face id such as black-forest-labs/FLUX.1-dev"
        ),
    )
    what = parser.add_argument_group(
        "what to make (without any of these, a run's held-out prompts)"
    )
    one = what.add_mutually_exclusive_group()
    one.add_argument("--prompt", metavar="TEXT", help="a prompt, or the instruction of an edit")
    one.add_argument(
        "--prompts",
        metavar="FILE",
        help=(
            "prompts (.txt, one a line; .jsonl; .json) or edits (.jsonl; .json), or miniature:data/prompts_heldout.txt"
        ),
    )
    what.add_argument(
        "--source",
        dest="source_image",
        type=Path,
        metavar="IMAGE",
        help="with --prompt: the image that is edited",
    )
    what.add_argument("--limit", type=number_from(1), metavar="N", help="only the first N prompts")
    what.add_argument(
        "--seed",
        type=number_from(0, most=2**62),
        default=0,
        metavar="N",
        help="seed of the noise (default: 0)",
    )
    what.add_argument(
        "--count",
        type=number_from(1),
        default=1,
        metavar="N",
        help="images for each prompt, with the seeds N, N+1, ... (default: 1)",
    )
    adapter = parser.add_argument_group("adapter")
    adapter.add_argument(
        "--adapter",
        type=Path,
        metavar="PATH",
        help=(
            "PEFT folder or .safetensors file in any usual layout (default: that of the run, else none)"
        ),
    )
    adapter.add_argument(
        "--alpha",
        type=float,
        metavar="N",
        help="lora_alpha it was trained with, for a file that does not record its strength",
    )
    adapter.add_argument(
        "--strength",
        type=number_from(-100, float, most=100),
        default=1.0,
        metavar="X",
        help="how much of the adapter: 0 is the base, 1 the adapter as trained (default: 1)",
    )
    adapter.add_argument(
        "--compare",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="also make every image without the adapter, same seed (default: for a run)",
    )
    add_sampling(parser)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help=(
            "folder of the images and grid.png; nothing is overwritten (default: a new one, generated/001, 002, ...)"
        ),
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
