"""The command ``python -m arr_core.judge``: measure a judge, look at its verdicts, or label pairs by hand.

Exit status: 0 done; 2 bad input, with one line on stderr that says what was expected, what was got and what to do next; 3
stopped by Ctrl-C, to be continued by the same command.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from .common.command import Parser, number_from, run

if TYPE_CHECKING:
    from .common.proportions import Proportion
    from .judging.metrics import Measures

STORE = "verdicts.sqlite"
OTHER_STORES = "verdicts-*.sqlite"  # of a run's further processes


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    options = _parser().parse_args(arguments)
    return run(
        lambda: options.action(options),
        stopped="stopped; the same command goes on, and nothing is asked twice",
        status=3,
    )


def _evaluate(options: argparse.Namespace) -> int:
    from .common.files import write_json
    from .common.progress import ProgressBars
    from .data import DataError, load_pairs, task_of
    from .judging import Judge, JudgeError
    from .judging.chat import RequestLimits
    from .judging.metrics import evaluate
    from .judging.profiles import default_rubric, load_profile, make_client
    from .rubrics import NO_RUBRIC, load_rubric
    from .rubrics.estimate import estimate_evaluation

    # Said before it costs anything.
    if options.output and not options.output.absolute().parent.is_dir():
        raise DataError(
            f"{options.output}: expected a file in a folder that exists; make the folder, or change --output"
        )
    pairs = load_pairs(options.pairs)[: options.limit]
    task = task_of(pairs, options.pairs, options.task)
    rubric = (
        load_rubric(options.rubric, task) if options.rubric else default_rubric(options.judge, task)
    )
    limits = RequestLimits(timeout_s=options.timeout, concurrency=options.concurrency)
    rubrics = [rubric] if options.only_rubric else [rubric, NO_RUBRIC[task]]
    if options.dry_run:
        questions = len(rubrics) * (1 if options.one_order else 2)
        expected = estimate_evaluation(pairs, load_profile(options.judge), questions)
        print(f"{len(pairs)} pairs. To be expected, less what is stored: {expected.text}.")
        return 0
    client = make_client(options.judge, limits)
    with (
        Judge(client, rubric, both_orders=not options.one_order, store=options.store) as judge,
        ProgressBars("pair") as bars,
    ):
        measured = [evaluate(judge, pairs, rubric=one, report_progress=bars) for one in rubrics]
    names = [f"rubric: {rubric.name}", "no rubric"][: len(measured)]
    print(_measures_table(names, measured))
    print(_parts_table("tag", names, [one.by_tag for one in measured]), end="")
    print(_parts_table("criterion", names, [measured[0].by_criterion]), end="")
    print(_parts_table("threshold", names, [measured[0].by_threshold]), end="")
    if threshold := measured[0].best_threshold:
        print(
            f"Under the rubric, threshold {threshold} gives the most right less wrong verdicts on these pairs."
        )
    for one in measured:
        if one.failures == one.pairs:
            raise JudgeError(
                f"none of the {one.pairs} pairs was answered, most often because: {one.commonest_failure}"
            )
    print(f"\nevery verdict: python -m arr_core.judge show {options.store}")
    if options.output:
        parts = [
            {"name": one.name, "hash": one.content_hash, **measures.summary()}
            for one, measures in zip(rubrics, measured, strict=True)
        ]
        content = {
            "judge": client.identity,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "task": task,
            "pairs": options.pairs.name,
            "pairs_hash": hashlib.sha256(options.pairs.read_bytes()).hexdigest()[:16],
            "count": len(pairs),
            "both_orders": judge.both_orders,
            "with_rubric": parts[0],
            "without_rubric": None if options.only_rubric else parts[1],
        }
        write_json(options.output, content)
    return 0


def _measures_table(names: Sequence[str], measured: Sequence[Measures]) -> str:
    """A Markdown table, one column a rubric."""
    cells = [_cells(one) for one in measured]
    rows = [[row, *(column[row] for column in cells)] for row in cells[0]]
    return markdown([f"{measured[0].pairs:,} pairs", *names], rows)


def _cells(one: Measures) -> dict[str, str]:
    """One column of the table, by the rows' names."""
    bias, latency = one.symmetric_bias, one.latency_s
    tokens, cost = one.tokens_per_pair, 1000 * one.cost_per_pair
    return {
        "right, of the decided pairs": _share(one.accuracy),
        "agreement with people, Cohen's kappa": one.accuracy.kappa,
        "decided": _share(one.coverage),
        "right, of single replies": _share(one.single_accuracy),
        "the orders disagree": _share(one.flip_rate),
        "the first image is named": _share(one.first_position_rate),
        "symmetric bias": "-" if bias is None else f"{100 * bias:+.1f} points",
        "pairs without an answer": f"{one.failures}",
        "calls now": f"{one.calls:,}",
        "tokens a pair": f"{tokens:,.0f}" if tokens else "-",
        "cost of 1,000 pairs": f"{cost:,.2f}" if cost else "-",
        "seconds a reply, median (95th percentile)": f"{latency[0]:.3g} ({latency[1]:.3g})"
        if latency
        else "-",
    }


def _parts_table(
    caption: str,
    names: Sequence[str],
    columns: Sequence[Mapping[str, tuple[Proportion, Proportion]]],
) -> str:
    """A Markdown table of accuracy and coverage, one row a part; empty where there are none."""
    heads = [caption, "pairs"]
    for name, _ in zip(names, columns, strict=False):
        heads += [f"right: {name}", f"decided: {name}"]
    rows = []
    for part, (_, coverage) in columns[0].items():
        row = [part, f"{coverage.total}"]
        for column in columns:
            row += map(_share, column[part])
        rows.append(row)
    return "\n" + markdown(heads, rows) + "\n" if rows else ""


def _share(part: Proportion) -> str:
    return f"{part}, {part.count} of {part.total}" if part.total else "-"


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are aligned in a terminal too."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in [heads, *rows]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |"
        for line in lines
    )


def _show(options: argparse.Namespace) -> int:
    from .judging import JudgeError
    from .judging.store import VerdictStore
    from .reports.verdicts import write_report

    path = options.path / STORE if options.path.is_dir() else options.path
    if not path.is_file():
        raise JudgeError(
            f"{path}: expected the folder of a run or a verdict store, got no such file; check the path"
        )
    output = options.output or path.with_name("verdicts.html")
    others = sorted(options.path.glob(OTHER_STORES)) if options.path.is_dir() else []
    with contextlib.ExitStack() as stack:
        stores = [
            stack.enter_context(contextlib.closing(VerdictStore(one))) for one in (path, *others)
        ]
        name = path.resolve().parent.name if path.name == STORE else path.stem
        write_report(stores, output, name, last=options.last or None, only=options.only)
    print(f"wrote {output}")
    return 0


def _label(options: argparse.Namespace) -> int:
    from .labeling.labels import label

    return label(options.source, options.output, rubric=options.rubric, port=options.port)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m arr_core.judge",
        description=(
            "Measure a judge on labelled pairs, look at what a judge said, or label pairs by hand."
        ),
    )
    actions = parser.add_subparsers(required=True, metavar="evaluate|show|label")

    evaluate = actions.add_parser(
        "evaluate", help="accuracy, coverage and position bias of a judge on labelled pairs"
    )
    evaluate.set_defaults(action=_evaluate)
    evaluate.add_argument(
        "pairs",
        type=Path,
        metavar="PAIRS",
        help="labelled pairs, .json or .jsonl: query, two images, label_rank; other keys are tags",
    )
    evaluate.add_argument(
        "--judge",
        required=True,
        metavar="PROFILE",
        help="'miniature', 'human', or a name from your judges file",
    )
    evaluate.add_argument(
        "--rubric",
        type=Path,
        metavar="FILE",
        help="rubric, .json or .txt (default: the built-in one of the task)",
    )
    evaluate.add_argument(
        "--task", choices=("t2i", "edit"), help="default: edit where the pairs have a source image"
    )
    evaluate.add_argument(
        "--one-order",
        action="store_true",
        help="ask once, in the order of the file, without swapping",
    )
    evaluate.add_argument(
        "--only-rubric",
        action="store_true",
        help="do not ask the plain question too (which is better?), which costs as much again",
    )
    evaluate.add_argument("--dry-run", action="store_true", help="say what it would cost, and stop")
    evaluate.add_argument(
        "--limit", type=number_from(1), metavar="N", help="use the first N pairs only"
    )
    evaluate.add_argument(
        "--output", type=Path, metavar="FILE", help="write everything that was measured as JSON too"
    )
    evaluate.add_argument(
        "--store",
        type=Path,
        default=Path(STORE),
        metavar="FILE",
        help=(
            "where verdicts are kept, so that a second run asks nothing twice (default: verdicts.sqlite here); "
            "ARR_VERDICTS names a second file that everything shares"
        ),
    )
    evaluate.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="of one request (default: 60)",
    )
    evaluate.add_argument(
        "--concurrency",
        type=number_from(1),
        default=16,
        metavar="N",
        help="requests in flight (default: 16)",
    )

    show = actions.add_parser("show", help="verdicts with images and reasons, as one HTML page")
    show.set_defaults(action=_show)
    show.add_argument(
        "path", type=Path, metavar="RUN_DIR_OR_STORE", help="a run's folder, or a verdicts.sqlite"
    )
    show.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the page (default: verdicts.html beside the store)",
    )
    show.add_argument(
        "--last",
        type=int,
        default=200,
        metavar="N",
        help="how many of the newest verdicts are shown (default: 200; 0: all); sums are over all of them",
    )
    show.add_argument(
        "--only",
        choices=("decided", "disagree", "tie", "failed"),
        help="show verdicts of this kind alone",
    )

    label = actions.add_parser("label", help="label pairs yourself, in a page on this machine")
    label.set_defaults(action=_label)
    label.add_argument(
        "source",
        type=Path,
        metavar="PAIRS_OR_IMAGES",
        help=(
            "pairs as above, a label_rank is not needed; or a folder with one folder for each prompt: images, and prompt.txt "
            "(default: the folder's name is the prompt) and for an edit source.png"
        ),
    )
    label.add_argument(
        "--output",
        type=Path,
        default=Path("labels.jsonl"),
        metavar="FILE",
        help="labelled pairs; what is in it already is not asked again (default: labels.jsonl)",
    )
    label.add_argument(
        "--rubric",
        type=Path,
        metavar="FILE",
        help="shown beside the pairs, .json or .txt (default: none)",
    )
    label.add_argument(
        "--port", type=int, default=0, metavar="N", help="of the page (default: any that is free)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
