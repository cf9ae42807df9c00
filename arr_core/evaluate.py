"""The command ``python -m arr_core.evaluate``: how often a judge prefers an adapter to its base, or to another adapter.

Exit status: 0 done; 2 bad input, with one line on stderr that says what was expected, what came and what to do next.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .common.children import UNTIL_EOF, stop_at_eof
from .common.command import Parser, new_folder, number_from, run
from .config import PRESETS, ConfigError
from .generate import add_sampling, make_plan, source_of

if TYPE_CHECKING:
    from .base_spec import Source
    from .evaluation import Contest
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
    words = list(sys.argv[1:] if words is None else words)
    if UNTIL_EOF in words:
        words.remove(UNTIL_EOF)
        stop_at_eof()
    return run(
        lambda: _evaluate(_parser().parse_args(words)),
        stopped=("stopped; with the same --output it goes on where it was"),
    )


def make_contest(options: argparse.Namespace, source: Source) -> Contest:
    """What the options ask for, checked as far as it can be before a model loads."""
    from .adapters import AdapterError, load_adapter
    from .evaluation import Contest

    options.output = options.output or new_folder("evaluations")
    if (options.output / "result.json").exists():
        raise ConfigError(
            f"{options.output}: expected a new folder, found another evaluation; give another --output"
        )
    plan = make_plan(options, source)
    if plan.adapter is None:
        raise ConfigError(
            "--adapter: expected an adapter to compare, came none; only a run brings its own"
        )
    other = load_adapter(options.against) if options.against else None
    if other is not None and other.family not in ("unknown", plan.settings.family):
        raise AdapterError(
            f"{options.against}: expected an adapter of {plan.settings.family} for {plan.settings.base}, found "
            f"one of {other.family}"
        )
    return Contest(
        plan,
        other,
        _name(options.adapter or Path(options.source)),
        "the base" if other is None else _name(options.against),
    )


def _name(path: Path) -> str:
    """What people call an adapter: the file's or folder's name, or the folder's above where that says nothing."""
    path = path.resolve()
    name = path.stem if path.suffix == ".safetensors" else path.name
    return path.parent.name if name in ("adapter", "adapter-best", "adapter_model") else name


def _evaluate(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from .evaluation import evaluate
    from .training.events import Event, EventLog, ProgressEvent, StartedEvent

    source = source_of(options)
    contest = make_contest(options, source)
    folder = contest.plan.output
    with contextlib.ExitStack() as stack:
        judge = stack.enter_context(_judge(options, contest, source.judge))
        bars: dict[str, tqdm] = {}

        def watch(event: Event) -> None:
            if isinstance(event, ProgressEvent):
                if event.stage not in bars:
                    bar = tqdm(total=event.total, desc=event.stage, unit="pair")
                    bars[event.stage] = stack.enter_context(bar)
                bars[event.stage].update(event.done - bars[event.stage].n)

        log = stack.enter_context(EventLog(folder / "events.jsonl", [watch]))
        log.emit(StartedEvent(run=f"{contest.name} against {contest.other_name}", updates=0))
        score = evaluate(contest, judge, log)
    from .evaluation import sentence

    print(sentence(contest, score))
    print(f"report   {folder / 'report.html'}")
    return 0


def _judge(options: argparse.Namespace, contest: Contest, given: dict) -> Judge:
    """The judge of the options, else that of the run or the preset."""
    from .judging import Judge
    from .judging.profiles import default_rubric, make_client
    from .rubrics import load_rubric

    plan = contest.plan
    task = "edit" if plan.settings.family == "qwen-image-edit" else "t2i"
    profile = options.judge or given.get("profile") or "local"
    rubric_file = options.rubric or given.get("rubric")
    if rubric_file:
        rubric = load_rubric(rubric_file, task)
    else:
        rubric = default_rubric(profile, task)
    client = make_client(profile)
    plan.output.mkdir(parents=True, exist_ok=True)  # for the store
    return Judge(
        client, rubric, both_orders=options.both_orders, store=plan.output / "verdicts.sqlite"
    )


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
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help=(
            f"a run's folder; a preset, whose base is taken ({', '.join(PRESETS)}); a folder of a diffusers pipeline; or a "
            "Hugging Face id such as black-forest-labs/FLUX.1-dev"
        ),
    )
    who = parser.add_argument_group("what is compared")
    who.add_argument(
        "--adapter",
        type=Path,
        metavar="PATH",
        help="PEFT folder or .safetensors file in any usual layout (default: that of the run)",
    )
    who.add_argument(
        "--against",
        type=Path,
        metavar="PATH",
        help="another adapter of the same base (default: the base)",
    )
    who.add_argument(
        "--alpha",
        type=float,
        metavar="N",
        help="lora_alpha the first was trained with, for a file that does not record its strength",
    )
    who.add_argument(
        "--strength",
        type=number_from(-100, float, most=100),
        default=1.0,
        metavar="X",
        help="how much of the adapters (default: 1)",
    )
    on = parser.add_argument_group("on what, by whom")
    on.add_argument(
        "--prompts",
        metavar="FILE",
        help=(
            "prompts (.txt, one a line; .jsonl; .json) or edits (.jsonl; .json) (default: a run's held-out prompts)"
        ),
    )
    on.add_argument("--limit", type=number_from(1), metavar="N", help="only the first N prompts")
    on.add_argument(
        "--seed",
        type=number_from(0, most=2**62),
        default=0,
        metavar="N",
        help="seed of the noise (default: 0)",
    )
    on.add_argument(
        "--count",
        type=number_from(1),
        default=1,
        metavar="N",
        help="pairs for each prompt (default: 1)",
    )
    on.add_argument(
        "--judge", metavar="NAME", help="judge profile (default: that of the run or preset)"
    )
    on.add_argument(
        "--rubric",
        type=Path,
        metavar="FILE",
        help="rubric file (default: that of the run, else the built-in one)",
    )
    on.add_argument(
        "--both-orders",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="ask twice with the images swapped",
    )
    add_sampling(parser, steps=None)
    parser.set_defaults(
        prompt=None, source_image=None, compare=False
    )  # what a plan may ask for besides
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="a new folder for result, report and images (default: evaluations/001, 002, ...)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
