"""ARRJudgePair: two images, a prompt, a rubric and a judge in; the preferred image and the reasons out."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from comfy_api.latest import io
from comfy_execution.graph import ExecutionBlocker

from . import folders
from .images import OUTCOMES, findings, preview, to_pictures, to_tensor, verdict_picture
from .judge import JudgeChoice, free_models_for
from .live import Live, wait
from .schema import (
    ADVANCED,
    JudgeSocket,
    Node,
    RubricSocket,
    VerdictSocket,
    choice,
    line,
    number,
    schema,
)

if TYPE_CHECKING:
    from ..arr_core.judging import Pair, Verdict

BLOCK, PASS_A = "stop here", "pass A on"


class ARRJudgePair(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ARRJudgePair",
            [
                io.Image.Input("image_a"),
                io.Image.Input("image_b"),
                line("prompt", multiline=True),
                JudgeSocket.Input("judge"),
                choice("when_undecided", [BLOCK, PASS_A]),
                RubricSocket.Input("rubric", optional=True),
                io.Image.Input("source", optional=True),
                number("reward_preferred", 1.0, -10.0, 10.0, step=0.1, **ADVANCED),
                number("reward_dispreferred", -0.1, -10.0, 10.0, step=0.1, **ADVANCED),
            ],
            {
                "preferred": io.Image,
                "dispreferred": io.Image,
                "verdict": VerdictSocket,
                "reasons": io.String,
                "reward_a": io.Float,
                "reward_b": io.Float,
                "decided": io.Boolean,
                "winner": io.Int,
            },
            is_output_list=True,
        )

    @classmethod
    def execute(
        cls,
        image_a,
        image_b,
        prompt,
        judge: JudgeChoice,
        when_undecided,
        rubric=None,
        source=None,
        reward_preferred=1.0,
        reward_dispreferred=-0.1,
    ) -> io.NodeOutput:
        with Live(cls) as live:
            pairs = make_pairs(prompt, image_a, image_b, source)
            verdicts = compare(pairs, judge, rubric, live)
            live.show_text(summary(verdicts))
        rows, cards = [], []
        for pair, verdict in zip(pairs, verdicts, strict=True):
            a, b = to_tensor(pair.image_a), to_tensor(pair.image_b)
            passed = (a, b) if when_undecided == PASS_A else [ExecutionBlocker(None)] * 2
            images, rewards, winner = {
                "a": ((a, b), (reward_preferred, reward_dispreferred), 1),
                "b": ((b, a), (reward_dispreferred, reward_preferred), 2),
                None: (passed, (0.0, 0.0), 0),
            }[verdict.preferred]
            rows.append((*images, verdict, as_text(verdict), *rewards, verdict.decided, winner))
            cards.append(verdict_picture(pair, verdict))
        columns = [list(column) for column in zip(*rows, strict=True)]
        return io.NodeOutput(*columns, ui={**preview(cards, cls), "text": columns[3]})


def make_pairs(prompt: str, image_a, image_b, source) -> list[Pair]:
    """The pairs of two batches. Raises ValueError for lengths that do not fit."""
    from ..arr_core.judging import Pair

    if not prompt.strip():
        raise ValueError("prompt: expected the prompt of the two images, got nothing")
    a, b = to_pictures(image_a), to_pictures(image_b)
    sources = [None] if source is None else to_pictures(source)
    count = max(len(a), len(b))
    for name, images in (("image_a", a), ("image_b", b), ("source", sources)):
        if len(images) not in (1, count):
            raise ValueError(
                f"{name}: expected 1 image or {count}, as many as the longer batch has, got {len(images)}"
            )
    return [
        Pair(prompt.strip(), a[at % len(a)], b[at % len(b)], sources[at % len(sources)])
        for at in range(count)
    ]


def compare(pairs: list[Pair], choice: JudgeChoice, rubric, live: Live) -> list[Verdict]:
    """The verdicts; a question that was answered before is not asked again."""
    from ..arr_core.judging import Judge
    from ..arr_core.judging.profiles import default_rubric, make_client

    task = "t2i" if pairs[0].source is None else "edit"
    if rubric is not None and rubric.task != task:
        raise ValueError(
            f"rubric: expected one for {'edits, as a source is' if task == 'edit' else 'images without a source'} "
            f"given, got {rubric.name!r}, which is for {rubric.task}"
        )
    rubric = rubric or default_rubric(choice.profile, task)
    free_models_for(choice.profile)
    client = make_client(choice.profile)
    if page := getattr(client, "url", ""):
        live.show_text(f"you are the judge: open {page}")
    folders.output().mkdir(parents=True, exist_ok=True)
    with Judge(
        client, rubric, both_orders=choice.both_orders, store=folders.output("verdicts.sqlite")
    ) as judge:
        return wait(judge.submit(pairs))


def as_text(verdict: Verdict) -> str:
    """Verdict, reason and findings, to be read."""
    reason = verdict.reason.removeprefix("undecided: ")
    return "\n- ".join([f"{OUTCOMES[verdict.preferred]}. {reason}", *findings(verdict)])


def summary(verdicts: list[Verdict]) -> str:
    """One line about all pairs."""
    if len(verdicts) == 1:
        return as_text(verdicts[0]).splitlines()[0]
    count = Counter(verdict.preferred for verdict in verdicts)
    return f"{len(verdicts)} pairs: A preferred {count['a']} times, B {count['b']}, undecided {count[None]}"
