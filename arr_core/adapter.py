"""The command ``python -m arr_core.adapter``: look into a LoRA adapter, or convert it to the universal file.

Exit status: 0 done; 2 bad input, with one line on stderr that says what was expected, what it got and what to do next.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .common.command import Parser, run

if TYPE_CHECKING:
    from .adapters import Adapter


def main(arguments: list[str] | None = None) -> int:
    """The exit status."""
    options = _parser().parse_args(arguments)
    return run(lambda: _act(options), stopped="stopped; nothing was written")


def _act(options: argparse.Namespace) -> int:
    from .adapters import base_id, base_warning, load_adapter

    adapter = load_adapter(options.path, options.alpha)
    if options.base:
        adapter = replace(adapter, base=base_id(options.base))
    lines = describe(adapter) if options.action == "inspect" else convert(adapter, options)
    print("\n".join(lines))
    if warning := base_warning(adapter.family, adapter.base):
        print(f"warning: {warning}", file=sys.stderr)
    return 0


def describe(adapter: Adapter) -> list[str]:
    """The lines of the table that ``inspect`` prints."""
    from .adapters import families_with, raw_outcomes

    pairs = adapter.modules.values()
    tensors = adapter.state_dict().values()
    kinds = Counter(re.sub(r"(_blocks)\.\d+\.", r"\1.*.", module) for module in adapter.modules)
    rows = {
        "family": adapter.family
        if families_with(adapter.modules)
        else "none of ours: its modules are named otherwise",
        "base": adapter.base or "not recorded",
        "layout": adapter.layout,
        "rank": _values(pair.rank for pair in pairs),
        "alpha": _values(pair.alpha for pair in pairs),
        "scale": _values(pair.scale for pair in pairs)
        + " (rsLoRA: alpha / sqrt(rank))" * adapter.use_rslora,
        "dtype": _values(str(tensor.dtype).removeprefix("torch.") for tensor in tensors),
        "size": f"{sum(tensor.nbytes for tensor in tensors) / 2**20:.2f} MiB, "
        f"{sum(tensor.numel() for tensor in tensors):,} parameters",
        "hash": adapter.content_hash,
        "modules": str(len(pairs)),
        **{f"  {kind}": str(count) for kind, count in sorted(kinds.items())},
        "loaded raw": "",
        **{f"  in {program}": outcome for program, outcome in raw_outcomes(adapter).items()},
    }
    width = max(map(len, rows))
    return [f"{name:<{width}}  {value}".rstrip() for name, value in rows.items()]


def convert(adapter: Adapter, options: argparse.Namespace) -> list[str]:
    """The lines that ``convert`` prints, after the universal file has been written."""
    from .adapters import AdapterError, families_with

    if not families_with(adapter.modules):
        raise AdapterError(
            f"{options.path}: expected modules of FLUX.1's or Qwen-Image's transformer as diffusers names them, "
            f"got others such as {next(iter(adapter.modules))}; nothing could load the result"
        )
    source = options.path.resolve()
    file = options.output or Path(
        f"{source.name.removesuffix('.safetensors')}-universal.safetensors"
    )
    if file.suffix != ".safetensors":
        raise AdapterError(f"{file}: expected an output that ends in .safetensors; change --output")
    if os.path.lexists(file):
        raise AdapterError(
            f"{file}: expected a new file, got one that is there already; give another --output"
        )
    adapter.save_universal(file)
    scale = _values(pair.scale for pair in adapter.modules.values())
    return [
        f"wrote {file}: {len(adapter.modules)} modules, scale {scale} baked in",
        "load it at strength 1.0:",
        f"  diffusers  pipe.load_lora_weights({str(file.parent)!r}, weight_name={file.name!r})",
        f"  ComfyUI    put it into models/loras; LoraLoaderModelOnly, lora_name {file.name}, strength_model 1.0",
    ]


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m arr_core.adapter",
        description="Look into a LoRA adapter of FLUX.1 or Qwen-Image-Edit, or "
        "convert it to one file that diffusers and ComfyUI load at full strength.",
    )
    actions = parser.add_subparsers(dest="action", required=True)
    inspect = actions.add_parser(
        "inspect", help="print what the adapter is and what happens if it is loaded as it is"
    )
    convert_ = actions.add_parser("convert", help="write the universal file")
    for action in (inspect, convert_):
        action.add_argument(
            "path",
            type=Path,
            metavar="PATH",
            help="PEFT folder, a folder that holds exactly one, or a .safetensors file",
        )
        action.add_argument(
            "--alpha",
            type=float,
            metavar="N",
            help="lora_alpha it was trained with, for a file that does not record its strength",
        )
        action.add_argument(
            "--base",
            metavar="ID",
            help="base model it was trained on, such as Qwen/Qwen-Image-Edit, where it is not recorded",
        )
    convert_.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the file to write (default: NAME-universal.safetensors in the current folder)",
    )
    return parser


def _values(values) -> str:
    """The distinct values with their number of occurrences, the most frequent first; a single one stands alone."""
    counts = Counter(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
    several = len(counts) > 1
    return ", ".join(
        f"{value} ({count})" if several else value for value, count in counts.most_common()
    )


if __name__ == "__main__":
    sys.exit(main())
