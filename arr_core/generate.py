"""The command ``python -m arr_core.generate``: images and edits from a base and an adapter, and a grid to compare them.

Exit status: 0 done; 2 bad input, with one line on stderr that says what was expected, what was given and what to do next.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .base_spec import BaseSpec
from .common.command import Parser, new_folder, run
from .common.progress import ProgressBars
from .config.load import ConfigError
from .data import Example, example_of
from .sampling_options import Plan, adapter_of, add_options, plan_of, spec_of

if TYPE_CHECKING:
    from .adapters import Adapter
    from .reports.grid import Row

GRID_ROWS = 32  # prompts in one grid picture
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
        lambda: _generate(options), stopped="stopped; the images that were finished are kept"
    )


def _generate(options: argparse.Namespace) -> int:
    from .adapters import base_warning
    from .reports.grid import draw_grid

    spec = spec_of(options)
    plan = plan_of(options, spec, _single(options, spec))
    adapter = adapter_of(options, spec)
    if options.compare and adapter is None:
        raise ConfigError("--compare: expected an --adapter to compare with the base, got none")
    compare = spec.run is not None if options.compare is None else options.compare
    variants: dict[str, Adapter | None] = {"base": None} if compare or adapter is None else {}
    if adapter is not None:
        variants["adapter"] = adapter
        if warning := base_warning(adapter.family, adapter.base, spec.policy.base):
            print(f"warning: {warning}", file=sys.stderr)
    output = options.output or new_folder("generated")
    files = {
        variant: _files(plan, output, f"-{variant}" if len(variants) > 1 else "")
        for variant in variants
    }
    pages = range(0, len(plan.prompts), GRID_ROWS)
    grids = [output / (f"grid-{at + 1}.png" if at else "grid.png") for at in range(len(pages))]
    _check_new(output, [*itertools.chain(*files.values()), *grids])
    with ProgressBars("image") as report, plan.sampler(report) as sampler:
        for variant, weights in variants.items():
            side = plan.side(sampler, variant, weights, files[variant])
            for _ in sampler.fill(side, report):
                pass
    rows = _rows(plan, [*itertools.chain(*zip(*files.values(), strict=True))])
    summary = _summary(plan.texts(sampler.keys, adapter)[0])
    titles = [f"{variant}, seed {seed}" for seed in plan.seeds for variant in variants]
    if plan.prompts[0].source:
        titles = ["source", *titles]
    for grid, first in zip(grids, pages, strict=True):
        draw_grid(rows[first : first + GRID_ROWS], titles, summary).save(grid)
    count = len(variants) * len(plan.jobs)
    names = ", ".join(grid.name for grid in grids)
    print(f"wrote {count} image{'s' * (count > 1)} and {names} to {output}")
    return 0


def _single(options: argparse.Namespace, spec: BaseSpec) -> list[Example] | None:
    """The example of --prompt and --source, if they are given. Raises ConfigError and DataError."""
    prompt, source, edits = options.prompt, options.source_image, spec.task == "edit"
    if source is not None and (prompt is None or not edits):
        raise ConfigError(
            "--source: expected --prompt and a base that edits images, got "
            f"{'no --prompt' if edits else f'{spec.policy.base}, which makes them from text'}"
        )
    if prompt is None:
        return None
    if options.prompts is not None:
        raise ConfigError("--prompts: expected one of --prompt and --prompts, got both")
    if edits and source is None:
        raise ConfigError(
            "--prompt: expected --source IMAGE beside it, since this base edits images"
        )
    return [example_of(prompt, source, where="--prompt")]


# ---------------------------------------------------------------------- files and the grid


def _files(plan: Plan, output: Path, suffix: str) -> list[Path]:
    """The file of every image. The prompt's number comes first, so that names sort as the prompts do."""
    return [
        output / f"{number:04d}-{slug(prompt.prompt)}-seed{seed}{suffix}.png"
        for number, prompt in enumerate(plan.prompts, 1)
        for seed in plan.seeds
    ]


def _check_new(output: Path, files: Iterable[Path]) -> None:
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output: expected a folder, got the file {output}")
    for file in files:
        if file.exists():
            raise ConfigError(f"{file}: expected no such file, got one; give another --output")


def slug(prompt: str, longest: int = 40) -> str:
    """The prompt as a part of a file name: small ASCII letters, digits and hyphens, whole words where they fit."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or "image"
    if len(words) <= longest:
        return words
    return words[: longest + 1].rpartition("-")[0] or words[:longest]


def _rows(plan: Plan, images: Sequence[Path]) -> list[Row]:
    """A row for each prompt: the source of an edit, then its images, each seed in each variant."""
    from .reports.grid import Row

    rows, width = [], len(images) // len(plan.prompts)
    for number, example in enumerate(plan.prompts):
        source = [example.source] if example.source else []
        own = images[number * width : (number + 1) * width]
        rows.append(Row(f"{number + 1}. {example.prompt}", [*source, *own]))
    return rows


def _summary(text: Mapping[str, str]) -> str:
    """What the images of the grid have in common: the text of one, less what is its own."""
    own = ("prompt", "source", "seed", "encoding")
    return ", ".join(f"{name} {value[:24]}" for name, value in text.items() if name not in own)


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
    add_options(
        parser,
        steps=30,
        output="folder of the images and grid.png; nothing is overwritten (default: a new one, generated/001, 002, ...)",
    )
    parser.add_argument(
        "--prompt", metavar="TEXT", help="one prompt, or the instruction of an edit"
    )
    parser.add_argument(
        "--source",
        dest="source_image",
        type=Path,
        metavar="IMAGE",
        help="with --prompt: the image that is edited",
    )
    parser.add_argument(
        "--compare",
        action=argparse.BooleanOptionalAction,
        help="also make every image without the adapter, same seed (default: for a run)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
