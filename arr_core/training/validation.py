"""Two sides on the same prompts and seeds: how often the judge prefers the first. Validation is policy against base."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..common import collectives
from ..common.progress import ReportProgress, no_progress
from ..common.proportions import Proportion
from ..common.randomness import seed_of
from ..config import TrainConfig
from ..data import Example
from ..judging import Judge, JudgeError, Pair, Verdict
from ..policies.base import Policy
from ..sampling import Images, Sampler, save_image
from .events import BothStatistics, ImageStatistics, ValidationEvent, ValidationImage
from .image_statistics import image_statistics


@dataclass(frozen=True)
class Score:
    """Pairs that the first side won and lost, and those that the judge did not decide."""

    wins: int
    losses: int
    undecided: int

    @classmethod
    def of(cls, verdicts: Sequence[Verdict]) -> Score:
        """The score of side a."""
        wins, losses = (sum(verdict.preferred == side for verdict in verdicts) for side in "ab")
        return cls(wins, losses, len(verdicts) - wins - losses)

    @property
    def win_rate(self) -> Proportion:
        """Wins of the decided pairs."""
        return Proportion(self.wins, self.wins + self.losses)

    @property
    def margin(self) -> float:
        """Wins less losses over all pairs: what the best adapter is chosen by."""
        return (self.wins - self.losses) / max(1, self.wins + self.losses + self.undecided)

    def sentence(self, name: str = "the adapter", other: str = "the base") -> str:
        """The outcome in words, with its interval."""
        rate, pairs = self.win_rate, self.wins + self.losses + self.undecided
        if rate.value is None:
            return f"the judge decided none of {pairs} pairs between {name} and {other}."
        low, high = rate.interval
        return (
            f"{name} beats {other} in {rate.value:.0%} of {rate.total} decided pairs "
            f"(95 % interval {low:.0%} to {high:.0%}; {self.undecided} of {pairs} undecided)."
        )


@dataclass(frozen=True)
class Side:
    """One of two sides: the context in which its weights compute, and its images, which may be there already."""

    name: str
    weights: Callable[[], AbstractContextManager]
    images: Images


def compare(
    judge: Judge,
    sampler: Sampler,
    examples: Sequence[Example],
    a: Side,
    b: Side,
    report: ReportProgress = no_progress,
) -> list[Verdict]:
    """The verdicts on the images of two sides, one for each example. Raises JudgeError, in all processes.

    The images of b come first; then each batch of a is judged while the next one is sampled.
    """
    with b.weights():
        for _ in sampler.fill(b.images, f"{b.name} images", report):
            pass
    asked = []
    with a.weights():
        for places in sampler.fill(a.images, f"{a.name} images", report):
            pairs = [
                Pair(
                    examples[place].prompt,
                    a.images[place],
                    b.images[place],
                    sampler.policy.source_picture(examples[place]),
                )
                for place in places
            ]
            asked.append((places, judge.submit(pairs)))

    def collect() -> list[Verdict]:
        verdicts: dict[int, Verdict] = {}
        for places, future in asked:
            verdicts.update(zip(places, future.result(), strict=True))
            report("verdicts", len(verdicts), len(examples))
        return [verdicts[place] for place in range(len(examples))]

    return collectives.together(collect, JudgeError)


def validation_event(
    score: Score,
    verdicts: Sequence[Verdict],
    images: Sequence[ValidationImage],
    *,
    update: int = 0,
    statistics: BothStatistics | None = None,
) -> ValidationEvent:
    """The event of a comparison, side a being the policy."""
    low, high = score.win_rate.interval
    return ValidationEvent(
        update=update,
        wins=score.wins,
        losses=score.losses,
        undecided=score.undecided,
        win_rate=score.win_rate.value,
        low=low,
        high=high,
        judge_calls=sum(verdict.calls for verdict in verdicts),
        judge_tokens=sum(verdict.tokens for verdict in verdicts),
        judge_cost=sum(verdict.cost for verdict in verdicts),
        statistics=statistics,
        images=tuple(images),
    )


def validation_image(
    folder: Path, example: Example, verdict: Verdict, policy: Path, base: Path, source: Path
) -> ValidationImage:
    """A pair in the event; its files lie in ``folder``."""
    return ValidationImage(
        prompt=example.prompt,
        policy=policy.relative_to(folder).as_posix(),
        base=base.relative_to(folder).as_posix(),
        source=source.relative_to(folder).as_posix() if example.source else None,
        preferred={"a": "policy", "b": "base", None: None}[verdict.preferred],
        reason=verdict.reason,
    )


class Validation:
    """The held-out prompts of a run, this process's share of them. The base's images are made once."""

    def __init__(
        self,
        policy: Policy,
        judge: Judge,
        examples: Sequence[Example],
        keys: Sequence[str],
        config: TrainConfig,
    ):
        self.numbers = range(collectives.rank(), len(examples), collectives.world_size())
        self.examples = [examples[number] for number in self.numbers]
        self.judge, self.config = judge, config
        steps = config.validation.steps or config.rollout.steps
        self.sampler = Sampler(
            policy,
            [keys[number] for number in self.numbers],
            [seed_of(config.run.seed, "validation", number) for number in self.numbers],
            config.rollout.model_copy(update={"steps": steps}),
        )
        self.base: dict[int, Image.Image] = {}

    def run(
        self, update: int, report: ReportProgress = no_progress
    ) -> tuple[Score, ValidationEvent]:
        """The policy as it is now against the base, over all processes, and its event. Writes sample images."""
        images: dict[int, Image.Image] = {}
        verdicts = compare(
            self.judge,
            self.sampler,
            self.examples,
            Side("validation", contextlib.nullcontext, images),
            Side("base", self.sampler.policy.reference, self.base),
            report,
        )
        places = range(len(self.numbers))
        shown = [
            (self.numbers[at], self._show(update, at, images[at], verdicts[at]))
            for at in places
            if self.numbers[at] < self.config.validation.images
        ]
        parts = collectives.gather(
            (verdicts, [images[at] for at in places], [self.base[at] for at in places], shown)
        )
        verdicts, policy, base, shown = (
            [item for part in parts for item in part[kind]] for kind in range(4)
        )
        score = Score.of(verdicts)
        return score, validation_event(
            score,
            verdicts,
            [image for _, image in sorted(shown, key=lambda item: item[0])],
            update=update,
            statistics=BothStatistics(
                base=ImageStatistics(**image_statistics(base)),
                policy=ImageStatistics(**image_statistics(policy)),
            ),
        )

    def _show(
        self, update: int, place: int, image: Image.Image, verdict: Verdict
    ) -> ValidationImage:
        """Write the images of one pair; those of the base and the source once."""
        example, folder = self.examples[place], self.config.run.folder
        policy, base, source = (
            folder / "samples" / part / f"{self.numbers[place]:03d}.png"
            for part in (f"{update:05d}", "base", "source")
        )
        save_image(image, policy)
        if not base.exists():
            save_image(self.base[place], base)
        picture = self.sampler.policy.source_picture(example)
        if picture is not None and not source.exists():
            save_image(picture, source)
        return validation_image(folder, example, verdict, policy, base, source)
