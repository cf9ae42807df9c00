"""The command ``python -m arr_core.rubric``: write a rubric from labelled pairs or from a description, or read one.

Exit status: 0 done; 1 a rubric was made, but nothing shows that it helps, so it was not put where it was asked for;
2 bad input or a judge that cannot answer; 3 interrupted. The same command goes on after 2 and 3 and pays nothing twice.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .common.command import Parser, run

if TYPE_CHECKING:
    from .judging.chat import Chat
    from .rubrics import Outcome, Rubric, Step

DESCRIPTION = "Write down what images are judged by: from pairs that people have labelled, or from a description."
PAIRS = """\
Write criteria for every labelled pair, verify them in both orders without the label, refine what fails, put what holds in
order, and keep the rubric only if the judge is better with it than without on pairs that were held out. 50 to 100 labelled
pairs are a good number."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    options = _parser().parse_args(arguments)
    action = {"pairs": _pairs, "describe": _describe, "show": _show}[options.action]
    return run(
        lambda: action(options), stopped="stopped; the same command goes on from here", status=3
    )


def _pairs(options: argparse.Namespace) -> int:
    from .data import load_pairs
    from .reports.rubric import write_report
    from .rubrics import from_pairs, load_exemplars
    from .rubrics.estimate import estimate
    from .rubrics.splitting import check, split, without

    _new_json(options.output)
    pairs = load_pairs(options.pairs)
    examples = load_exemplars(options.examples) if options.examples else []
    check(pairs, options.task)
    if options.held_out_file:
        others = load_pairs(options.held_out_file)
        check(others, options.task)
        seeds, held_out = without(pairs, others), others
    else:
        others = options.held_out
        seeds, held_out = split(pairs, options.held_out)
    chat, profile = _chat(options)
    text = sum(
        len(f"{example.prompt}{example.rationale}{example.criteria}") for example in examples
    )
    expected = estimate(
        seeds,
        held_out,
        price=profile.price_per_million_tokens,
        side=profile.max_side,
        reply_price=profile.price_per_million_reply_tokens,
        example_characters=text,
    )
    print(
        f"{len(seeds)} pairs to write from, {len(held_out)} held out. To be expected: {expected.text}.",
        flush=True,
    )
    if len(seeds) < 20 or len(held_out) < 10:
        print("note: so few pairs say little; 50 to 100 are a good number", file=sys.stderr)
    if options.dry_run:
        return 0
    with _Bar() as bar, _goes_on(options.output):
        outcome = from_pairs(
            pairs,
            chat,
            task=options.task,
            folder=_work(options.output),
            observer=bar,
            language=options.language,
            examples=examples,
            held_out=others,
            at_once=options.concurrency,
            most_criteria=options.most_criteria,
            name=options.name or options.output.stem,
        )
    report = write_report(
        outcome, options.output.with_suffix(".html"), options.name or options.output.stem
    )
    return _told(outcome, options.output, report)


@contextlib.contextmanager
def _goes_on(output: Path) -> Iterator[None]:
    """What was paid for lies in the work folder: a judge that gives up says so too."""
    from .judging import JudgeError

    try:
        yield
    except JudgeError as error:
        if not _work(output).exists():
            raise
        raise JudgeError(f"{error}; the same command goes on from here") from error


def _told(outcome: Outcome, output: Path, report: Path) -> int:
    """Writes the rubric where it may lie, and says what came out."""
    counts = outcome.endings
    cost = f", cost {outcome.cost:.2f}" if outcome.cost else ""
    remembered = f"; {outcome.remembered} replies were there already" if outcome.remembered else ""
    print(
        f"{counts['kept']} pairs gave criteria at once, {counts['refined']} after refinement; {counts['discarded']} "
        f"discarded, {counts['failed']} failed. {outcome.calls} calls, {outcome.tokens:,} tokens{cost}{remembered}."
    )
    print(outcome.sentence)
    if outcome.rubric:
        outcome.rubric.save(output)
        print(f"rubric  {output}")
    elif outcome.candidate:
        aside = _work(output) / "not-kept.json"
        outcome.candidate.save(aside)
        print(f"No rubric was written to {output}; the one that did not help is {aside}.")
    print(f"report  {report}")
    return 0 if outcome.rubric else 1


def _describe(options: argparse.Namespace) -> int:
    from .rubrics import RubricError, from_description, load_exemplars

    if options.output:
        _new_json(options.output)
    text = options.text
    file = Path(text)
    if len(text) < 200 and file.suffix.lower() in (".txt", ".md"):
        try:
            text = file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise RubricError(f"{file}: expected a text file in UTF-8; {error}") from error
    if not text.strip():
        raise RubricError("expected a task description or a prompt, came nothing")
    examples = load_exemplars(options.examples) if options.examples else []
    chat, _ = _chat(options)
    rubric = from_description(
        text, chat, task=options.task, language=options.language, examples=examples
    )
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
    from .rubrics import BUILT_IN, RubricError, load_rubric

    try:
        rubric = load_rubric(options.file, options.task)
    except RubricError as error:
        if Path(options.file).exists():
            raise
        raise RubricError(
            f"{error}; the built-in ones are {', '.join(map(repr, BUILT_IN))}"
        ) from error
    print(*shown(rubric), sep="\n")
    if options.output:
        _new_json(options.output)
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


class _Bar:
    """A progress bar for each stage, with what became of its pairs; plain lines where there is no terminal."""

    def __init__(self):
        self.bar, self.stage, self.counts = None, "", {}

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, step: Step) -> None:
        from tqdm import tqdm

        if step.stage != self.stage:
            self.__exit__()
            self.stage, self.counts = step.stage, {}
            self.bar = tqdm(
                total=step.total,
                desc=step.stage,
                unit="pair" if step.total > 1 else "call",
                dynamic_ncols=True,
                disable=None,
            )
            if self.bar.disable:
                print(f"{step.stage}: {step.total} to do", file=sys.stderr, flush=True)
        if step.note:
            self.counts[step.note] = self.counts.get(step.note, 0) + 1
        self.bar.set_postfix(self.counts, refresh=False)
        self.bar.update(step.done - self.bar.n)


def _chat(options: argparse.Namespace) -> tuple[Chat, object]:
    from .judging.profiles import load_profile, make_chat

    return make_chat(options.judge, concurrency=options.concurrency), load_profile(options.judge)


def _work(output: Path) -> Path:
    """The folder beside the output in which a job can be gone on with."""
    return output.with_suffix(".work")


def _new_json(output: Path) -> None:
    from .rubrics import RubricError

    if output.suffix.lower() != ".json":
        raise RubricError(f"{output}: expected an output that ends in .json; change --output")
    if output.exists():
        raise RubricError(
            f"{output}: expected a new file, found one that is there already; give another --output"
        )
    if not output.parent.is_dir():
        raise RubricError(
            f"{output}: expected an output in a folder that exists; make {output.parent}, or change --output"
        )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m arr_core.rubric", description=DESCRIPTION)
    actions = parser.add_subparsers(dest="action", required=True)
    pairs = actions.add_parser(
        "pairs", description=PAIRS, help="write a rubric from labelled pairs; keep it if it helps"
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
            help="profile of the model that writes and judges",
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
            type=_count,
            default=16,
            metavar="N",
            help="requests at once (default: 16)",
        )
    held_out = pairs.add_mutually_exclusive_group()
    held_out.add_argument(
        "--held-out",
        type=_fraction,
        default=0.3,
        metavar="SHARE",
        help="share of the pairs that the rubric is checked with (default: 0.3)",
    )
    held_out.add_argument(
        "--held-out-file", type=Path, metavar="PAIRS", help="other labelled pairs to check it with"
    )
    pairs.add_argument(
        "--most-criteria",
        type=_count,
        default=60,
        metavar="N",
        help="verified criteria that are put in order; of more, those that speak for all (default: 60)",
    )
    pairs.add_argument("--dry-run", action="store_true", help="say what it would cost, and stop")
    show = actions.add_parser("show", help="print a rubric and where it comes from")
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


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, came {number}")
    return number


def _fraction(text: str) -> float:
    share = float(text)
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"expected a share between 0 and 1, came {text}")
    return share


if __name__ == "__main__":
    sys.exit(main())
