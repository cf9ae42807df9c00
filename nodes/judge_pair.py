"""ARRJudgePair: two images, a prompt, a rubric and a judge in; the preferred image and the reasons out."""

from __future__ import annotations

from comfy_api.latest import io

from . import folders
from .judge import JudgeChoice, make_room
from .live import Live, wait
from .pictures import in_letters, shown, to_image, to_pictures, verdict_picture
from .schema import JudgeSocket, RubricSocket, VerdictSocket, advanced, explained, schema

BLOCK, PASS_A = "stop here", "pass A on"


class ARRJudgePair(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ARRJudgePair",
            "Compare Two Images",
            is_output_node=True,
            description=(
                "Which of two images answers the prompt better, and why. Batches are compared pair by pair; every output "
                "is a list with one entry a pair. A pair that the judge does not decide is undecided, never a coin flip."
            ),
            search_aliases=["judge", "preference", "which is better", "reward", "arr"],
            inputs=[
                io.Image.Input("image_a", tooltip="Image A, or a batch."),
                io.Image.Input(
                    "image_b",
                    tooltip="Image B, or a batch as long as A's; a single image is compared with all.",
                ),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="",
                    tooltip="The prompt, or the instruction of an edit.",
                ),
                JudgeSocket.Input("judge", tooltip="Who compares."),
                io.Combo.Input(
                    "when_undecided",
                    options=[BLOCK, PASS_A],
                    tooltip=(
                        "What 'preferred' and 'dispreferred' give for an undecided pair: nothing, so that nodes behind them do "
                        "not run, or A and B as they came."
                    ),
                ),
                RubricSocket.Input(
                    "rubric", optional=True, tooltip="The criteria; without one, the built-in ones."
                ),
                io.Image.Input(
                    "source", optional=True, tooltip="For edits: the image that both started from."
                ),
                io.Float.Input(
                    "reward_preferred",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.1,
                    **advanced(),
                    tooltip=("Reward of the preferred image."),
                ),
                io.Float.Input(
                    "reward_dispreferred",
                    default=-0.1,
                    min=-10.0,
                    max=10.0,
                    step=0.1,
                    **advanced(),
                    tooltip=("Reward of the other image. An undecided pair has none: both are 0."),
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="preferred",
                    is_output_list=True,
                    tooltip="The better image of each pair.",
                ),
                io.Image.Output(
                    display_name="dispreferred",
                    is_output_list=True,
                    tooltip="The other image of each pair.",
                ),
                VerdictSocket.Output(
                    display_name="verdict", is_output_list=True, tooltip="All that the judge said."
                ),
                io.String.Output(
                    display_name="reasons",
                    is_output_list=True,
                    tooltip="Verdict, reason and findings as text.",
                ),
                io.Float.Output(
                    display_name="reward_a", is_output_list=True, tooltip="Reward of image A."
                ),
                io.Float.Output(
                    display_name="reward_b", is_output_list=True, tooltip="Reward of image B."
                ),
                io.Boolean.Output(
                    display_name="decided",
                    is_output_list=True,
                    tooltip="False for an undecided pair.",
                ),
                io.Int.Output(
                    display_name="winner",
                    is_output_list=True,
                    tooltip="1 for A, 2 for B, 0 for undecided.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        image_a,
        image_b,
        prompt: str,
        judge: JudgeChoice,
        when_undecided: str,
        rubric=None,
        source=None,
        reward_preferred: float = 1.0,
        reward_dispreferred: float = -0.1,
    ) -> io.NodeOutput:
        from comfy_execution.graph import ExecutionBlocker

        live = Live(cls.hidden.unique_id)
        with explained(live):
            pairs = make_pairs(prompt, image_a, image_b, source)
            verdicts = compare(pairs, judge, rubric, live)
        rows = []
        for pair, verdict in zip(pairs, verdicts, strict=True):
            images = [to_image(pair.image_a), to_image(pair.image_b)]
            ordered = images[::-1] if verdict.preferred == "b" else images
            if not verdict.decided and when_undecided == BLOCK:
                ordered = [ExecutionBlocker(None)] * 2
            rewards = {
                "a": (reward_preferred, reward_dispreferred),
                "b": (reward_dispreferred, reward_preferred),
                None: (0.0, 0.0),
            }[verdict.preferred]
            number = 0 if verdict.winner is None else verdict.winner + 1
            rows.append((*ordered, verdict, as_text(verdict), *rewards, verdict.decided, number))
        outputs = [list(column) for column in zip(*rows, strict=True)]
        live.say(summary(verdicts))
        cards = [
            verdict_picture(pair, verdict) for pair, verdict in zip(pairs, verdicts, strict=True)
        ]
        return io.NodeOutput(*outputs, ui={**shown(cards, cls), "text": outputs[3]})


def make_pairs(prompt: str, image_a, image_b, source) -> list:
    """The pairs of two batches. Raises ValueError for lengths that do not fit."""
    from ..arr_core.judging import Pair

    if not prompt.strip():
        raise ValueError("prompt: expected the prompt of the two images, came nothing")
    a, b = to_pictures(image_a), to_pictures(image_b)
    sources = [None] if source is None else to_pictures(source)
    count = max(len(a), len(b))
    for name, images in (("image_a", a), ("image_b", b), ("source", sources)):
        if len(images) not in (1, count):
            raise ValueError(
                f"{name}: expected 1 image or {count}, as many as the longer batch has, came {len(images)}"
            )
    a, b, sources = (images * count if len(images) == 1 else images for images in (a, b, sources))
    return [Pair(prompt.strip(), *images) for images in zip(a, b, sources, strict=True)]


def compare(pairs: list, choice: JudgeChoice, rubric, live: Live) -> list:
    """The verdicts; a question that was answered before is not asked again."""
    from ..arr_core.judging import Judge
    from ..arr_core.judging.profiles import default_rubric, make_client

    task = "t2i" if pairs[0].source is None else "edit"
    if rubric is not None and rubric.task != task:
        raise ValueError(
            f"rubric: expected one for {'edits, as a source is' if task == 'edit' else 'images without a source'} "
            f"given, came {rubric.name!r}, which is for {rubric.task}"
        )
    rubric = rubric or default_rubric(choice.profile, task)
    make_room(choice.profile)
    client = make_client(choice.profile)
    for one in (client, *getattr(client, "members", ())):
        if address := getattr(one, "url", ""):
            live.say(f"you are the judge: open {address}")
    store = folders.own_folder() / "verdicts.sqlite"
    with Judge(client, rubric, both_orders=choice.both_orders, store=store) as judge:
        return wait(judge.submit(pairs))


def as_text(verdict) -> str:
    """Verdict, reason and findings, to be read."""
    head = {"a": "A is preferred", "b": "B is preferred", None: "undecided"}[verdict.preferred]
    findings = [f"- {criterion}: {in_letters(finding)}" for criterion, finding in verdict.findings]
    return "\n".join([f"{head}. {verdict.reason.removeprefix('undecided: ')}", *findings])


def summary(verdicts: list) -> str:
    """One line about all pairs."""
    count = {
        side: sum(verdict.preferred == side for verdict in verdicts) for side in ("a", "b", None)
    }
    if len(verdicts) == 1:
        return as_text(verdicts[0]).splitlines()[0]
    return f"{len(verdicts)} pairs: A preferred {count['a']} times, B {count['b']}, undecided {count[None]}"
