"""The independent measure: exact compositions and edits among images of held-out prompts, base against adapter.

No training and no judge ever sees it (``world.exact_image`` and ``world.exact_edit`` look at pixels).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image

from ..common.images import open_image
from ..common.proportions import Proportion
from ..common.randomness import seed_of
from ..data import Example, load_examples
from ..sampling import Sampler
from ..training.events import MeasuredShare, MeasureEvent
from .world import edited_thing, exact_edit, exact_image, outside_change

if TYPE_CHECKING:
    from ..training.trainer import Trainer

HELD_OUT = {
    "t2i": "miniature:data/prompts_heldout.txt",
    "edit": "miniature:data/edits_heldout.jsonl",
}


def measure(examples: Sequence[Example], images: Sequence[Image.Image]) -> MeasuredShare:
    """The share of exact images, one an example; for edits also the mean change (0..255) outside of the edited thing."""
    exact, changes = 0, []
    for example, image in zip(examples, images, strict=True):
        if example.source is None:
            exact += exact_image(image, example.prompt)
            continue
        source = open_image(example.source)
        exact += exact_edit(source, image, example.prompt)
        changes.append(outside_change(source, image, edited_thing(source, example.prompt)))
    low, high = Proportion(exact, len(images)).interval
    return MeasuredShare(
        value=exact / len(images),
        low=low,
        high=high,
        count=len(images),
        outside_change=sum(changes) / len(changes) if changes else None,
    )


def report_measure(trainer: Trainer) -> None:
    """Record the measure of a finished run, base and adapter, as an event and as a printed sentence.

    It takes eight images of the embedded held-out prompts for every one that a validation takes.
    """
    config, policy = trainer.config, trainer.policy
    count = 8 * config.validation.count
    held_out = load_examples(HELD_OUT[config.task], config.task)
    examples = [held_out[i % len(held_out)] for i in range(count)]
    seeds = [seed_of("measure", config.run.seed, i) for i in range(count)]
    rollout = config.rollout.model_copy(update={"micro_batch": 128})
    shares = []
    for side in (policy.reference(), contextlib.nullcontext()):
        with side:
            images = Sampler(policy, examples, seeds, rollout).images()
        shares.append(measure(examples, images))
    base, trained = shares
    name = "exact edits" if config.task == "edit" else "exact compositions"
    trainer.emit(MeasureEvent(name=name, unit="share", base=base, policy=trained))
    if trainer.rank == 0:
        print(
            f"An independent exact measure, {count} images of held-out prompts: {name} {_text(base)} before, "
            f"{_text(trained)} after."
        )


def _text(share: MeasuredShare) -> str:
    return f"{share.value:.0%} ({share.low:.0%} to {share.high:.0%})"
