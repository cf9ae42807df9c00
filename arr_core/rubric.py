"""The command ``python -m arr_core.rubric``: write a rubric from labelled pairs or from a description, or read one.

Exit status: 0 done; 1 a rubric was made, but not shown to be better, so it was not put where it was asked for;
2 bad input or a judge that cannot answer; 3 interrupted. The same command goes on after 2 and 3 and pays nothing twice.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .common.command import Parser, number_from, run

if TYPE_CHECKING:
    from .rubrics import Rubric
    from .rubrics.pipeline import Outcome

DESCRIPTION = "Write down what images are judged by: from pairs that people have labelled, or from a description."
PAIRS = """\
Write criteria for every labelled pair, verify them in both orders without the label, refine what fails, put what holds in
order, and keep the rubric only if the judge is shown to be better with it than with the built-in one, on pairs that were
held out: one-sided exact binomial test, level 0.05. 50 to 100 labelled pairs are a good number."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    options = _parser().parse_args(arguments)
    return run(
        lambda: options.action(options),
        stopped="stopped; the same command goes on from here",
        status=3,
    )


def _pairs(options: argparse.Namespace) -> int:
    from .common.progress import ProgressBars
    from .data import load_exemplars, load_pairs, task_of
    from .judging import JudgeError
    from .judging.profiles import load_profile, make_chat
    from .reports.rubric import write_report
    from .rubrics.estimate import estimate
    from .rubrics.pipeline import from_pairs, open_judge_and_writer
    from .rubrics.prompts import Assignment
    from .rubrics.splitting import split

    _check_new(options.output)
    pairs = load_pairs(options.pairs)
    task_of(pairs, options.pairs, options.task)
    examples = load_exemplars(options.examples) if options.examples else []
    held_out = load_pairs(options.held_out_file) if options.held_out_file else options.held_out
    seeds, held = split(pairs, held_out)
    task_of(held, options.held_out_file, options.task)
    writer = options.writer or options.judge
    make_chat(writer)  # a profile without a key, or that writes no text, is refused before all else
    expected = estimate(
        seeds,
        held,
        load_profile(writer),
        load_profile(options.judge),
        example_characters=sum(
            len(f"{one.prompt}{one.rationale}{one.criteria}") for one in examples
        ),
    )
    print(
        f"{len(seeds)} pairs to write from, {len(held)} held out. To be expected: {expected.text}.",
        flush=True,
    )
    if len(seeds) < 20 or len(held) < 10:
        print("note: so few pairs say little; 50 to 100 are a good number", file=sys.stderr)
    if options.dry_run:
        return 0
    folder, name = _work(options.output), options.name or options.output.stem
    try:
        with (
            open_judge_and_writer(
                options.judge,
                folder,
                task=options.task,
                writer=writer,
                concurrency=options.concurrency,
            ) as (judge, chat),
            ProgressBars("pair") as bars,
        ):
            outcome = judge.runner.run(
                from_pairs(
                    pairs,
                    judge,
                    chat,
                    Assignment(options.task, options.language, examples),
                    folder=folder,
                    held_out=held_out,
                    at_once=options.concurrency,
                    most_criteria=options.most_criteria,
                    name=name,
                    report_progress=bars,
                    notes=bars.notes,
                )
            )
    except JudgeError as error:
        raise JudgeError(f"{error}; the same command goes on from here") from error
    return _finish(
        outcome, options.output, write_report(outcome, options.output.with_suffix(".html"), name)
    )


def _finish(outcome: Outcome, output: Path, report: Path) -> int:
    """Writes the rubric where it may lie, and says what came out."""
    counts = outcome.endings
    cost = f", cost {outcome.cost:.2f}" if outcome.cost else ""
    cached = f"; {outcome.cached} replies were there already" if outcome.cached else ""
    print(
        f"{counts['kept']} pairs gave criteria at once, {counts['refined']} after refinement; {counts['discarded']} "
        f"discarded, {counts['failed']} failed. {outcome.calls} calls, {outcome.tokens:,} tokens{cost}{cached}."
    )
    print(outcome.sentence)
    if outcome.rubric:
        outcome.rubric.save(output)
        print(f"rubric  {output}")
    elif outcome.candidate:
        aside = _work(output) / "not-kept.json"
        outcome.candidate.save(aside)
        print(f"No rubric was written to {output}; what was written is {aside}.")
    print(f"report  {report}")
    return 0 if outcome.rubric else 1


def _describe(options: argparse.Namespace) -> int:
    from .common.async_runner import AsyncRunner
    from .common.files import read_text
    from .data import load_exemplars
    from .judging.chat import RequestLimits
    from .judging.profiles import make_chat
    from .rubrics import RubricError
    from .rubrics.prompts import Assignment
    from .rubrics.writer import from_description

    if options.output:
        _check_new(options.output)
    text = options.text
    file = Path(text)
    if len(text) < 200 and file.suffix.lower() in (".txt", ".md"):
        text = read_text(file, "a text file in UTF-8", RubricError, 2**20)
    examples = load_exemplars(options.examples) if options.examples else []
    assignment = Assignment(options.task, options.language, examples)
    chat = make_chat(options.judge, RequestLimits(concurrency=options.concurrency))
    runner = AsyncRunner("rubric")
    try:
        rubric = runner.run(from_description(text, chat, assignment))
    finally:
        runner.close(chat.close())
    if options.name:
        rubric = rubric.model_copy(update={"name": options.name})
    print(rubric.text)
    if options.output:
        rubric.save(options.output)
        print(
            f"\nrubric  {options.output}\nNothing has verified it; labelled pairs would: "
            f"python -m arr_core.judge evaluate PAIRS --judge {shlex.quote(options.judge)} "
            f"--rubric {shlex.quote(str(options.output))}"
        )
    return 0


def _show(options: argparse.Namespace) -> int:
    from .rubrics import load_rubric

    rubric = load_rubric(options.file, options.task)
    print(*shown(rubric), sep="\n")
    if options.output:
        _check_new(options.output)
        rubric.save(options.output)
        print(f"\nrubric  {options.output}")
    return 0


def shown(rubric: Rubric) -> list[str]:
    """The lines about a rubric: what it is, what a judge reads, where it comes from."""
    from .rubrics.provenance import edited

    task = {"t2i": "text to image", "edit": "image editing"}[rubric.task]
    lines = [
        f"{rubric.name} ({task}, {rubric.language}, hash {rubric.content_hash})",
        "",
        *rubric.text.splitlines(),
    ]
    if edited(rubric):
        lines += ["", "Edited since it was made: what follows is about the rubric as it was."]
    if rubric.provenance:
        width = max(map(len, rubric.provenance))
        lines += [
            "",
            *(
                f"{name.replace('_', ' '):<{width}}  {'unknown' if value is None else value}"
                for name, value in rubric.provenance.items()
            ),
        ]
    return lines


def _work(output: Path) -> Path:
    """The folder beside the output in which a job can be gone on with."""
    return output.with_suffix(".work")


def _check_new(output: Path) -> None:
    from .rubrics import RubricError

    if output.suffix.lower() != ".json":
        raise RubricError(f"{output}: expected an output that ends in .json; change --output")
    if output.exists():
        raise RubricError(
            f"{output}: expected a new file, got one that is there already; give another --output"
        )
    if not output.parent.is_dir():
        raise RubricError(
            f"{output}: expected an output in a folder that exists; make {output.parent}, or change --output"
        )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m arr_core.rubric", description=DESCRIPTION)
    actions = parser.add_subparsers(required=True, metavar="pairs|describe|show")
    pairs = actions.add_parser(
        "pairs",
        description=PAIRS,
        help="write a rubric from labelled pairs; keep it if it is better",
    )
    pairs.add_argument(
        "pairs",
        type=Path,
        metavar="PAIRS",
        help="labelled pairs, .json or .jsonl; label_rank 1 is better",
    )
    describe = actions.add_parser(
        "describe", help="write a rubric from a task description, or from a prompt alone"
    )
    describe.add_argument(
        "text",
        metavar="TEXT_OR_FILE",
        help="the description or prompt, or a .txt or .md file with it",
    )
    for action in (pairs, describe):
        action.add_argument(
            "--task", choices=("t2i", "edit"), required=True, help="text to image, or image editing"
        )
        action.add_argument(
            "--judge",
            required=True,
            metavar="PROFILE",
            help="profile of the model that writes, and that judges pairs",
        )
        action.add_argument(
            "--output",
            type=Path,
            required=action is pairs,
            metavar="FILE",
            help="the rubric's file, .json",
        )
        action.add_argument(
            "--language",
            default="en",
            metavar="CODE",
            help="of the criteria: en, zh, ... (default: en)",
        )
        action.add_argument(
            "--examples",
            type=Path,
            metavar="FILE",
            help="curated examples, .json or .jsonl: prompt, rationale, and perhaps criteria",
        )
        action.add_argument(
            "--name",
            metavar="NAME",
            help="name of the rubric (default: made from the output or the text)",
        )
        action.add_argument(
            "--concurrency",
            type=number_from(1),
            default=16,
            metavar="N",
            help="requests at once (default: 16)",
        )
    pairs.set_defaults(action=_pairs)
    describe.set_defaults(action=_describe)
    pairs.add_argument(
        "--writer",
        default="",
        metavar="PROFILE",
        help="profile of the model that writes, where the judge writes no text (a panel) or another should",
    )
    held_out = pairs.add_mutually_exclusive_group()
    held_out.add_argument(
        "--held-out",
        type=number_from(0.01, float, 0.99),
        default=0.3,
        metavar="SHARE",
        help="share of the pairs that the rubric is checked with (default: 0.3)",
    )
    held_out.add_argument(
        "--held-out-file", type=Path, metavar="PAIRS", help="other labelled pairs to check it with"
    )
    pairs.add_argument(
        "--most-criteria",
        type=number_from(1),
        default=60,
        metavar="N",
        help="verified criteria that are put in order; of more, those that speak for all (default: 60)",
    )
    pairs.add_argument("--dry-run", action="store_true", help="say what it would cost, and stop")
    show = actions.add_parser("show", help="print a rubric and where it comes from")
    show.set_defaults(action=_show)
    show.add_argument(
        "file", metavar="FILE", help="a rubric, .json or .txt, or the name of a built-in one"
    )
    show.add_argument(
        "--task", choices=("t2i", "edit"), help="of a .txt file, which does not know its own"
    )
    show.add_argument(
        "--output", type=Path, metavar="FILE", help="write it as JSON too, to edit it by hand"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
