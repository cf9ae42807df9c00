"""Two sides on the same prompts and seeds: how often the judge prefers the first. Validation is policy against base."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

from ..common import collectives
from ..common.progress import ReportProgress, no_progress
from ..common.proportions import Proportion
from ..common.randomness import seed_of
from ..config.schema import TrainConfig
from ..data import Example
from ..judging import Judge, JudgeError, Pair, Verdict
from ..policies.base import Policy
from ..sampling import MemoryImages, Sampler, Side, save_image
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
    def pairs(self) -> int:
        return self.wins + self.losses + self.undecided

    @property
    def win_rate(self) -> Proportion:
        """Wins of the decided pairs."""
        return Proportion(self.wins, self.wins + self.losses)

    @property
    def margin(self) -> float:
        """Wins less losses over all pairs: what the best adapter is chosen by."""
        return (self.wins - self.losses) / max(1, self.pairs)

    def sentence(self, name: str = "the adapter", other: str = "the base") -> str:
        """The outcome in words, with its interval."""
        rate = self.win_rate
        if rate.value is None:
            return f"the judge decided none of {self.pairs} pairs between {name} and {other}."
        low, high = rate.interval
        return (
            f"{name} beats {other} in {rate.value:.0%} of {rate.total} decided pairs "
            f"(95 % interval {low:.0%} to {high:.0%}; {self.undecided} of {self.pairs} undecided)."
        )


def compare(
    judge: Judge, sampler: Sampler, a: Side, b: Side, report: ReportProgress
) -> list[Verdict]:
    """The verdicts on the images of two sides, one for each example of the sampler. Raises JudgeError, in all processes.

    The images of b come first; then each batch of a is judged while the next one is sampled.
    """
    examples = sampler.examples
    for _ in sampler.fill(b, report):
        pass
    asked = []
    for places in sampler.fill(a, report):
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
            verdicts.update(zip(places, judge.result(future), strict=True))
            report("verdicts", len(verdicts), len(examples))
        return [verdicts[place] for place in range(len(examples))]

    return collectives.raise_on_all_ranks(collect, JudgeError)


def show(
    sampler: Sampler, verdicts: Sequence[Verdict], a: Side, b: Side
) -> dict[int, ValidationImage]:
    """The pairs whose images have files, by place. Files are ``samples/SIDE/NAME``; sources are written beside them."""
    shown = {}
    for place, file in a.images.files.items():
        example, verdict = sampler.examples[place], verdicts[place]
        source = file.parents[1] / "source" / file.name
        picture = sampler.policy.source_picture(example)
        if picture is not None and not source.exists():
            save_image(picture, source)
        policy, base, source = (
            path.relative_to(file.parents[2]).as_posix()
            for path in (file, b.images.files[place], source)
        )
        shown[place] = ValidationImage(
            prompt=example.prompt,
            policy=policy,
            base=base,
            source=source if picture is not None else None,
            preferred={"a": "policy", "b": "base", None: None}[verdict.preferred],
            reason=verdict.reason,
        )
    return shown


def validation_event(
    update: int,
    verdicts: Sequence[Verdict],
    images: Sequence[ValidationImage],
    statistics: BothStatistics | None = None,
) -> ValidationEvent:
    """The event of a comparison, side a being the policy."""
    score = Score.of(verdicts)
    low, high = score.win_rate.interval
    return ValidationEvent(
        update=update,
        **asdict(score),
        win_rate=score.win_rate.value,
        low=low,
        high=high,
        judge_calls=sum(verdict.calls for verdict in verdicts),
        judge_tokens=sum(verdict.tokens for verdict in verdicts),
        judge_cost=sum(verdict.cost for verdict in verdicts),
        statistics=statistics,
        images=tuple(images),
    )


class Validation:
    """A process's share of a run's held-out prompts. The base's images are made once."""

    def __init__(
        self,
        policy: Policy,
        judge: Judge,
        examples: Sequence[Example],
        config: TrainConfig,
        published: Callable[[], AbstractContextManager] = contextlib.nullcontext,
    ):
        """published: the context of the weights that are validated. It is left before the judge is waited for."""
        self.numbers = range(collectives.rank(), len(examples), collectives.world_size())
        self.judge, self.config, self.published = judge, config, published
        steps = config.validation.steps or config.rollout.steps
        self.sampler = Sampler(
            policy,
            [examples[number] for number in self.numbers],
            [seed_of(config.run.seed, "validation", number) for number in self.numbers],
            config.rollout.model_copy(update={"steps": steps}),
        )
        self.base = Side("base", policy.reference, MemoryImages(self._files("base")))

    def run(
        self, update: int, report: ReportProgress = no_progress
    ) -> tuple[Score, ValidationEvent]:
        """The policy as it is now against the base, over all processes, and its event. Writes sample images."""
        images = MemoryImages(self._files(f"{update:05d}"))
        policy, base = Side("validation", self.published, images), self.base
        verdicts = compare(self.judge, self.sampler, policy, base, report)
        shown = show(self.sampler, verdicts, policy, base)
        rows = [
            (number, verdicts[at], policy.images[at], base.images[at], shown.get(at))
            for at, number in enumerate(self.numbers)
        ]
        everything = sorted(row for part in collectives.gather(rows) for row in part)
        _, verdicts, *images, shown = zip(*everything, strict=True)
        trained, untrained = (ImageStatistics(**image_statistics(side)) for side in images)
        event = validation_event(
            update,
            verdicts,
            [image for image in shown if image],
            BothStatistics(base=untrained, policy=trained),
        )
        return Score.of(verdicts), event

    def _files(self, folder: str) -> dict[int, Path]:
        """Where the first images of a side are written, by place."""
        return {
            place: self.config.run.folder / "samples" / folder / f"{number:03d}.png"
            for place, number in enumerate(self.numbers)
            if number < self.config.validation.images
        }
