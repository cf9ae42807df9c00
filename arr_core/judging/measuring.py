"""What ``python -m arr_core.judge evaluate`` does: a judge on labelled pairs, with a rubric and without, side by side."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

from tqdm import tqdm

from ..data import DataError, PreferencePair, load_pairs
from ..rubrics import BUILT_IN, load_rubric
from .judge import Judge
from .metrics import NO_RUBRIC, Measures, Share, evaluate
from .profiles import load_profile, make_client
from .verdict import JudgeError


def run(options: argparse.Namespace) -> int:
    """The exit status, after the tables have been printed. Raises DataError, RubricError, JudgeError."""
    if (
        options.output and not options.output.absolute().parent.is_dir()
    ):  # said before it costs anything
        raise DataError(
            f"{options.output}: expected a file in a folder that is there; make the folder, or change --output"
        )
    pairs = load_pairs(options.pairs)[: options.limit]
    task = task_of(pairs, options.pairs, options.task)
    small = load_profile(options.judge).kind == "miniature"
    rubric = (
        load_rubric(options.rubric, task)
        if options.rubric
        else BUILT_IN[f"miniature {task}" if small else task]
    )
    client = make_client(options.judge, timeout_s=options.timeout, concurrency=options.concurrency)
    asked = {
        f"rubric: {rubric.name}": rubric,
        **({} if options.only_rubric else {"no rubric": NO_RUBRIC[task]}),
    }
    measured: dict[str, Measures] = {}
    with Judge(
        client,
        rubric,
        both_orders=not options.one_order,
        store=options.store,
        position_bias=options.position_bias,
        flip_rate=options.flip_rate,
    ) as judge:
        for name, one in asked.items():
            with tqdm(total=len(pairs), desc=name, unit="pair", dynamic_ncols=True) as bar:
                measured[name] = evaluate(judge, pairs, rubric=one, progress=bar.update)
        both_orders = judge.both_orders
    print(table(measured), tag_table(measured), sep="\n")
    for one in measured.values():
        if one.failures == one.pairs:
            raise JudgeError(
                f"none of the {one.pairs} pairs was answered, most often because: {one.commonest_failure}"
            )
    print(f"every verdict: python -m arr_core.judge show {options.store}")
    if options.output:
        parts = [
            {"name": one.name, "hash": one.content_hash, **measured[name].summary()}
            for name, one in asked.items()
        ]
        content = {
            "judge": client.identity,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "task": task,
            "pairs": options.pairs.name,
            "pairs_hash": hashlib.sha256(options.pairs.read_bytes()).hexdigest()[:16],
            "count": len(pairs),
            "both_orders": both_orders,
            "position_bias": options.position_bias,
            "flip_rate": options.flip_rate,
            "with_rubric": parts[0],
            "without_rubric": None if options.only_rubric else parts[1],
        }
        options.output.write_text(
            json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    return 0


def task_of(pairs: Sequence[PreferencePair], path: Path, wanted: str | None) -> str:
    """What the pairs are about: "edit" where they have a source image, else "t2i". Raises DataError for a mixture."""
    edits = sum(pair.source is not None for pair in pairs)
    if 0 < edits < len(pairs):
        raise DataError(
            f"{path}: expected pairs of one task, came {edits} with a source image and {len(pairs) - edits} "
            "without; put them into two files"
        )
    task = "edit" if edits else "t2i"
    if wanted not in (None, task):
        with_or_without = "with" if edits else "without"
        raise DataError(
            f"{path}: expected pairs for the task {wanted!r}, came pairs {with_or_without} a source image"
        )
    return task


def table(measured: Mapping[str, Measures]) -> str:
    """A Markdown table, one column a rubric."""
    columns = measured.values()
    rows = {
        "right, of the decided pairs": [share(one.accuracy) for one in columns],
        "decided": [share(one.coverage) for one in columns],
        "right, of single replies": [share(one.single_accuracy) for one in columns],
        "the orders disagree": [share(one.flip_rate) for one in columns],
        "the first image is named": [share(one.first_position_rate) for one in columns],
        "symmetric bias": [_signed(one.symmetric_bias) for one in columns],
        "pairs without an answer": [f"{one.failures}" for one in columns],
        "calls now": [f"{one.calls:,}" for one in columns],
        "tokens a pair": [
            f"{one.tokens_per_pair:,.0f}" if one.tokens_per_pair else "-" for one in columns
        ],
        "cost of 1,000 pairs": [
            f"{1000 * one.cost_per_pair:,.2f}" if one.cost_per_pair else "-" for one in columns
        ],
        "seconds a reply, median (95th percentile)": [
            f"{one.latency_s[0]:.3g} ({one.latency_s[1]:.3g})" if one.latency_s else "-"
            for one in columns
        ],
    }
    pairs = next(iter(columns)).pairs
    return markdown(
        [f"{pairs:,} pairs", *measured], [[name, *cells] for name, cells in rows.items()]
    )


def tag_table(measured: Mapping[str, Measures]) -> str:
    """A Markdown table, one row a tag; empty where the pairs have none."""
    first = next(iter(measured.values()))
    heads = [
        "tag",
        "pairs",
        *(f"{what}: {name}" for name in measured for what in ("right", "decided")),
    ]
    rows = [
        [
            tag,
            f"{first.by_tag[tag][1].of}",
            *(share(part) for one in measured.values() for part in one.by_tag[tag]),
        ]
        for tag in first.by_tag
    ]
    return "\n" + markdown(heads, rows) + "\n" if rows else ""


def share(part: Share) -> str:
    """A share as "84.2% (75.1-90.4)", with Wilson's 95 % interval, or "-" where nothing was counted."""
    if part.value is None:
        return "-"
    low, high = part.interval
    return f"{part.value:.1%} ({100 * low:.1f}-{100 * high:.1f}), {part.count} of {part.of}"


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns stand below each other in a terminal too."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in [heads, *rows]]
    widths = [max(len(line[at]) for line in lines) for at in range(len(heads))]
    shown = [
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |"
        for line in lines
    ]
    return "\n".join([shown[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *shown[1:]])


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f} points"
