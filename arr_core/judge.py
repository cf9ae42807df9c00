"""The command ``python -m arr_core.judge``: measure a judge, look at its verdicts, or label pairs by hand.

Exit status: 0 done; 2 bad input, with one line on stderr that says what was expected, what came and what to do next; 3
stopped by Ctrl-C, to be continued by the same command.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from .common.command import Parser, run

STORE = "verdicts.sqlite"
OTHER_STORES = "verdicts-*.sqlite"  # of a run's further processes


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    options = _parser().parse_args(arguments)
    action = {"evaluate": _evaluate, "show": _show, "label": _label}[options.action]
    return run(
        lambda: action(options),
        stopped="stopped; the same command goes on, and nothing is asked twice",
        status=3,
    )


def _show(options: argparse.Namespace) -> int:
    from .judging.store import VerdictStore
    from .judging.verdict import JudgeError
    from .reports.verdicts import page

    path = options.path / STORE if options.path.is_dir() else options.path
    if not path.is_file():
        raise JudgeError(
            f"{path}: expected the folder of a run or a verdict store, found no such file"
        )
    output = options.output or path.with_name("verdicts.html")
    others = sorted(options.path.glob(OTHER_STORES)) if options.path.is_dir() else []
    with contextlib.ExitStack() as open_stores:
        stores = [
            open_stores.enter_context(contextlib.closing(VerdictStore(one)))
            for one in (path, *others)
        ]
        content = page(
            stores,
            path.resolve().parent.name if path.name == STORE else path.stem,
            last=options.last or None,
            only=options.only,
        )
    output.write_bytes(content.encode("utf-8", "replace"))
    print(f"wrote {output}")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from .judging.measuring import run

    return run(options)


def _label(options: argparse.Namespace) -> int:
    from .labeling.labels import run

    return run(options)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m arr_core.judge",
        description=(
            "Measure a judge on labelled pairs, look at what a judge said, or label pairs by hand."
        ),
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="evaluate|show|label")

    measured = actions.add_parser(
        "evaluate", help="accuracy, coverage and position bias of a judge on labelled pairs"
    )
    measured.add_argument(
        "pairs",
        type=Path,
        metavar="PAIRS",
        help=(
            "labelled pairs, .json or .jsonl: query, two images, label_rank; other keys are tags"
        ),
    )
    measured.add_argument(
        "--judge",
        required=True,
        metavar="PROFILE",
        help=("'miniature', 'human', or a name from your judges file"),
    )
    measured.add_argument(
        "--rubric",
        type=Path,
        metavar="FILE",
        help=("rubric, .json or .txt (default: the built-in one of the task)"),
    )
    measured.add_argument(
        "--task", choices=("t2i", "edit"), help="default: edit where the pairs have a source image"
    )
    measured.add_argument(
        "--one-order",
        action="store_true",
        help="ask once, in the order of the file, without swapping",
    )
    measured.add_argument(
        "--only-rubric",
        action="store_true",
        help=("do not ask the plain question too (which is better?), which costs as much again"),
    )
    measured.add_argument("--limit", type=_whole, metavar="N", help="use the first N pairs only")
    measured.add_argument(
        "--output", type=Path, metavar="FILE", help="write everything that was measured as JSON too"
    )
    measured.add_argument(
        "--store",
        type=Path,
        default=Path(STORE),
        metavar="FILE",
        help=(
            "where verdicts are kept, so that a second run asks nothing twice (default: verdicts.sqlite here); "
            "ARR_VERDICTS names a second file that everything shares"
        ),
    )
    measured.add_argument(
        "--position-bias",
        type=_probability,
        default=0.0,
        metavar="P",
        help=("benchmarks only: probability that the first image is named, whatever it shows"),
    )
    measured.add_argument(
        "--flip-rate",
        type=_probability,
        default=0.0,
        metavar="P",
        help=("benchmarks only: share of verdicts turned around"),
    )
    measured.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="of one request (default: 60)",
    )
    measured.add_argument(
        "--concurrency",
        type=_whole,
        default=16,
        metavar="N",
        help="requests in flight (default: 16)",
    )

    shown = actions.add_parser("show", help="verdicts with images and reasons, as one HTML page")
    shown.add_argument(
        "path", type=Path, metavar="RUN_DIR_OR_STORE", help="a run's folder, or a verdicts.sqlite"
    )
    shown.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the page (default: verdicts.html beside the store)",
    )
    shown.add_argument(
        "--last",
        type=int,
        default=200,
        metavar="N",
        help=(
            "how many verdicts are shown, the newest (default: 200; 0: all). The sums are over all of them"
        ),
    )
    shown.add_argument(
        "--only",
        choices=("decided", "disagree", "tie", "failed"),
        help="show verdicts of this kind alone",
    )

    labelled = actions.add_parser("label", help="label pairs yourself, in a page on this machine")
    labelled.add_argument(
        "source",
        type=Path,
        metavar="PAIRS_OR_IMAGES",
        help=(
            "pairs as above, a label_rank is not needed; or a folder with one folder for each prompt: images, and prompt.txt "
            "(default: the folder's name is the prompt) and for an edit source.png"
        ),
    )
    labelled.add_argument(
        "--output",
        type=Path,
        default=Path("labels.jsonl"),
        metavar="FILE",
        help=("labelled pairs; what is in it already is not asked again (default: labels.jsonl)"),
    )
    labelled.add_argument(
        "--rubric",
        type=Path,
        metavar="FILE",
        help="shown beside the pairs, .json or .txt (default: none)",
    )
    labelled.add_argument(
        "--port", type=int, default=0, metavar="N", help="of the page (default: any that is free)"
    )
    return parser


def _whole(word: str) -> int:
    if not (word.isascii() and word.isdigit() and int(word)):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, came {word!r}")
    return int(word)


def _probability(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, came {word!r}")
    return value


if __name__ == "__main__":
    sys.exit(main())
