"""The independent measure: exact compositions and edits among images of held-out prompts, base against adapter.

No training and no judge ever sees it (``world.exact_image`` and ``world.exact_edit`` look at pixels).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from ..common.proportions import wilson
from ..common.randomness import seed_of
from ..data import Example, load_examples, open_image
from ..sampling import Sampler
from ..training.events import MeasuredShare, MeasureEvent
from .world import exact_edit, exact_image, find_things, outside_change, parse_instruction

HELD_OUT = {
    "t2i": "miniature:data/prompts_heldout.txt",
    "edit": "miniature:data/edits_heldout.jsonl",
}


@dataclass(frozen=True)
class Measure:
    """How many of ``count`` images are exact, and for edits the mean change (0..255) outside the edited thing."""

    exact: int
    count: int
    outside: float | None = None

    @property
    def rate(self) -> float:
        return self.exact / self.count

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.exact, self.count)

    def share(self) -> MeasuredShare:
        """The measure as an event's field."""
        low, high = self.interval
        return MeasuredShare(
            value=self.rate, low=low, high=high, count=self.count, outside_change=self.outside
        )


def measure(examples: Sequence[Example], images: Sequence[Image.Image]) -> Measure:
    """The measure of one image an example."""
    if examples[0].source is None:
        return Measure(
            sum(
                exact_image(image, example.prompt)
                for example, image in zip(examples, images, strict=True)
            ),
            len(images),
        )
    exact, change = 0, 0.0
    for example, image in zip(examples, images, strict=True):
        source = open_image(example.source)
        exact += exact_edit(source, image, example.prompt)
        target = next(
            t for t in find_things(source) if t.name == parse_instruction(example.prompt).target
        )
        change += outside_change(source, image, target)
    return Measure(exact, len(images), change / len(images))


def measure_policy(
    policy, config, *, count: int = 512, reference: bool = False, seed: int = 0
) -> Measure:
    """The measure of ``count`` images of the embedded held-out prompts, with the adapter or (``reference``) without."""
    held_out = load_examples(HELD_OUT[config.task], config.task)
    examples = [held_out[i % len(held_out)] for i in range(count)]
    seeds = [seed_of("measure", seed, i) for i in range(count)]
    settings = config.rollout.model_copy(update={"micro_batch": 128})
    with policy.reference() if reference else contextlib.nullcontext():
        return measure(examples, Sampler(policy, examples, seeds, settings).images())


def report_measure(trainer) -> None:
    """Record the measure of a finished run, base and adapter, as an event, in the report and as a printed sentence.

    It takes eight images for every one that a validation takes.
    """
    count = 8 * trainer.config.validation.count
    base, trained = (
        measure_policy(
            trainer.policy,
            trainer.config,
            count=count,
            reference=reference,
            seed=trainer.config.run.seed,
        )
        for reference in (True, False)
    )
    name = "exact edits" if trainer.config.task == "edit" else "exact compositions"
    trainer.emit(MeasureEvent(name=name, unit="share", base=base.share(), policy=trained.share()))
    if trainer.rank == 0:
        (low, high), (low_base, high_base) = trained.interval, base.interval
        print(
            f"An independent exact measure, {count} images of held-out prompts: {name} {base.rate:.0%} "
            f"({low_base:.0%} to {high_base:.0%}) before, {trained.rate:.0%} ({low:.0%} to {high:.0%}) after."
        )
