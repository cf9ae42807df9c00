"""The command ``python -m arr_core.evaluate``: how often a judge prefers an adapter to its base, or to another adapter.

Its folder holds ``result.json``, ``events.jsonl`` (``started``, ``progress``, ``validation``, ``finished``),
``verdicts.sqlite``, ``samples/`` and ``report.html``. Exit status: 0 done; 2 bad input, with one line on stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import __version__
from .base_spec import BaseSpec
from .common.children import UNTIL_EOF, stop_at_eof
from .common.command import Parser, new_folder, run
from .common.files import check_links, write_json
from .common.progress import ProgressBars
from .config.load import ConfigError
from .sampling_options import adapter_of, add_options, load_adapter_for, plan_of, spec_of

if TYPE_CHECKING:
    from .judging import Judge

EXAMPLES = """\
examples:
  python -m arr_core.evaluate runs/mine
      the run's adapter against its base, on its held-out prompts, with its judge
  python -m arr_core.evaluate flux --adapter mine.safetensors --against ARR-FLUX.1-dev --prompts prompts.txt --judge local
      two adapters of FLUX.1-dev
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    words = sys.argv[1:] if words is None else words
    if UNTIL_EOF in words:
        stop_at_eof()
    return run(
        lambda: _evaluate(_parser().parse_args(words)),
        stopped="stopped; with the same --output it goes on where it was",
    )


def _evaluate(options: argparse.Namespace) -> int:
    from .adapters import base_id
    from .reports.win_rate import write_report
    from .training.events import EventLog, FinishedEvent, ProgressEvent, StartedEvent
    from .training.validation import Score, compare, show, validation_event

    output = options.output or new_folder("evaluations")
    if (output / "result.json").exists():
        raise ConfigError(
            f"{output}: expected a new folder, got one of another evaluation; give another --output"
        )
    check_links(output, ConfigError)
    spec = spec_of(options)
    plan, adapter = plan_of(options, spec), adapter_of(options, spec)
    if adapter is None:
        raise ConfigError("--adapter: expected an adapter, got none; only a run brings its own")
    other = load_adapter_for(spec, options.against) if options.against else None
    name = _name(options.adapter or Path(options.source))
    other_name = _name(options.against) if other else "the base"
    with (
        _judge(options, spec, output) as judge,
        EventLog(output / "events.jsonl") as log,
        ProgressBars("pair") as bars,
        contextlib.ExitStack() as stack,
    ):
        log.emit(StartedEvent(run=f"{name} against {other_name}", updates=0))

        def report(stage: str, done: int, total: int) -> None:
            bars(stage, done, total)
            log.emit(ProgressEvent(stage=stage, done=done, total=total))

        sampler = stack.enter_context(plan.sampler(report))
        names = [f"{place:04d}.png" for place in range(len(plan.jobs))]
        first, second = (
            plan.side(sampler, side, weights, [output / "samples" / side / file for file in names])
            for side, weights in (("first", adapter), ("second", other))
        )
        verdicts = compare(judge, sampler, first, second, report)
        images = list(show(sampler, verdicts, first, second).values())
        event = validation_event(0, verdicts, images)
        sentence = Score.of(verdicts).sentence(name, other_name)
        counts = (
            *("wins", "losses", "undecided", "win_rate", "low", "high"),
            *("judge_calls", "judge_cost"),
        )
        result = {
            **{count: getattr(event, count) for count in counts},
            "sentence": sentence,
            "name": name,
            "adapter": adapter.content_hash,
            "against": other_name,
            "against_adapter": other.content_hash if other else None,
            "base": base_id(spec.policy.base),
            "strength": plan.strength,
            "prompts": len(plan.prompts),
            "seeds": list(plan.seeds),
            "steps": spec.rollout.steps,
            "shift": spec.rollout.shift,
            "rubric": judge.rubric.name,
            "rubric_hash": judge.rubric.content_hash,
            "failures": sum(verdict.failed for verdict in verdicts),
            "version": __version__,
        }
        write_report(output, result, images)
        write_json(output / "result.json", result)
        log.emit(event)
        log.emit(FinishedEvent(sentence=sentence, report="report.html", result="result.json"))
    print(sentence)
    print(f"report   {output / 'report.html'}")
    return 0


def _name(path: Path) -> str:
    """What people call an adapter: the file's or folder's name, or the folder's above where that says nothing."""
    path = path.resolve()
    name = path.stem if path.suffix == ".safetensors" else path.name
    return path.parent.name if name in ("adapter", "adapter-best", "adapter_model") else name


def _judge(options: argparse.Namespace, spec: BaseSpec, output: Path) -> Judge:
    """The judge of the options, else that of the run or the preset."""
    from .judging import Judge
    from .judging.profiles import default_rubric, make_client
    from .rubrics import load_rubric

    profile = options.judge or spec.judge.profile
    file = options.rubric or spec.judge.rubric
    rubric = load_rubric(file, spec.task) if file else default_rubric(profile, spec.task)
    client = make_client(profile)
    output.mkdir(parents=True, exist_ok=True)  # for the store
    return Judge(client, rubric, both_orders=options.both_orders, store=output / "verdicts.sqlite")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m arr_core.evaluate",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXAMPLES,
        allow_abbrev=False,
        usage="python -m arr_core.evaluate SOURCE [--adapter A] [--against B] [--prompts FILE] [options]",
        description="Win rate of an adapter against its base or against another adapter: same prompts, same seeds, with a\n"
        "95 % interval, and a report that shows the pairs.",
    )
    add_options(
        parser,
        steps=None,
        output="a new folder for result, report and images (default: evaluations/001, 002, ...)",
    )
    parser.add_argument(UNTIL_EOF, action="store_true", help="stop when standard input ends")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="PATH",
        help="another adapter of the same base (default: the base)",
    )
    parser.add_argument(
        "--judge", metavar="NAME", help="judge profile (default: that of the run or preset)"
    )
    parser.add_argument(
        "--rubric",
        type=Path,
        metavar="FILE",
        help="rubric file (default: that of the run, else the built-in one)",
    )
    parser.add_argument(
        "--both-orders",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="ask twice with the images swapped",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
