"""The policy against the frozen base on held-out prompts, same seeds: the one number that shows progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..common import collectives as distributed
from ..common.proportions import wilson
from ..common.randomness import seed_of
from ..data import Example
from ..judging import Judge, JudgeError, Pair, Verdict
from ..policies.base import Policy
from .events import BothStatistics, ImageStatistics, ValidationImage
from .image_statistics import image_statistics
from .rollout import sample_batches

Tell = Callable[
    [str, int, int], object
]  # hears a stage, how much of it is done, and how much there is


@dataclass(frozen=True)
class Score:
    """Verdicts of policy against base. The win rate is over decided pairs, with a 95 % Wilson interval."""

    wins: int
    losses: int
    undecided: int

    @property
    def win_rate(self) -> float | None:
        return self.wins / (self.wins + self.losses) if self.wins + self.losses else None

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.wins, self.wins + self.losses)

    @property
    def margin(self) -> float:
        """Wins less losses over all pairs: what the best adapter is chosen by."""
        return (self.wins - self.losses) / max(1, self.wins + self.losses + self.undecided)


class Validation:
    """Held-out prompts with their base images, made once; ``run`` compares the adapter with them."""

    def __init__(
        self,
        policy: Policy,
        judge: Judge,
        examples: Sequence[Example],
        keys: Sequence[str],
        config,
        folder: Path,
    ):
        share = slice(distributed.rank(), None, distributed.world_size())
        self.numbers = list(range(len(examples)))[share]
        self.examples, self.keys = list(examples)[share], list(keys)[share]
        self.policy, self.judge, self.config, self.folder = policy, judge, config, folder
        self.seeds = [seed_of(config.run.seed, "validation", number) for number in self.numbers]
        self._base: dict[int, Image.Image] = {}

    def run(self, update: int, tell: Tell = lambda stage, done, total: None) -> tuple[Score, dict]:
        """The score over all processes, and the fields of its event. Writes sample images; ``tell`` hears how far it is.

        A batch is judged while the next one is sampled.
        """
        if not self._base:
            with self.policy.reference():
                self._base = dict(
                    pair for batch in self._sample("base images", tell) for pair in batch
                )
        images: dict[int, Image.Image] = {}
        asked: list[tuple[list[int], Future[list[Verdict]]]] = []
        for batch in self._sample("validation images", tell):
            images.update(batch)
            places = [at for at, _ in batch]
            asked.append(
                (places, self.judge.submit([self._pair(at, image) for at, image in batch]))
            )
        judged: dict[int, Verdict] = distributed.together(
            lambda: {
                at: verdict
                for places, future in asked
                for at, verdict in zip(places, future.result(), strict=True)
            },
            JudgeError,
        )
        shown = [
            self._show(update, at, images[at], judged[at])
            for at, number in enumerate(self.numbers)
            if number < self.config.validation.images
        ]
        everything = [(judged[at], images[at], self._base[at]) for at in range(len(self.numbers))]
        parts = distributed.gather((everything, shown))
        verdicts, policy, base = zip(*(item for part in parts for item in part[0]), strict=True)
        wins, losses = (sum(verdict.preferred == side for verdict in verdicts) for side in "ab")
        score = Score(wins, losses, len(verdicts) - wins - losses)
        low, high = score.interval
        return score, {
            "update": update,
            "wins": wins,
            "losses": losses,
            "undecided": score.undecided,
            "win_rate": score.win_rate,
            "low": low,
            "high": high,
            "statistics": BothStatistics(
                base=ImageStatistics(**image_statistics(base)),
                policy=ImageStatistics(**image_statistics(policy)),
            ),
            "judge_calls": sum(v.calls for v in verdicts),
            "judge_tokens": sum(v.tokens for v in verdicts),
            "judge_cost": sum(v.cost for v in verdicts),
            "images": tuple(
                image
                for _, image in sorted(
                    (item for part in parts for item in part[1]), key=lambda item: item[0]
                )
            ),
        }

    def _sample(self, stage: str, tell: Tell) -> Iterator[list[tuple[int, Image.Image]]]:
        """Batches of places and their images."""
        settings, rollout, done = self.config.validation, self.config.rollout, 0
        for places, images in sample_batches(
            self.policy,
            self.keys,
            self.seeds,
            steps=settings.steps or rollout.steps,
            shift=rollout.shift,
            micro_batch=rollout.micro_batch,
        ):
            tell(stage, done := done + len(images), len(self.keys))
            yield list(zip(places, images, strict=True))

    def _pair(self, at: int, image: Image.Image) -> Pair:
        example = self.examples[at]
        return Pair(example.prompt, image, self._base[at], self.policy.source_picture(example))

    def _show(self, update: int, at: int, image: Image.Image, verdict: Verdict):
        number, source = self.numbers[at], self.policy.source_picture(self.examples[at])
        paths = {
            "policy": self.folder / f"{update:05d}" / f"{number:03d}.png",
            "base": self.folder / "base" / f"{number:03d}.png",
            "source": self.folder / "source" / f"{number:03d}.png",
        }
        pictures = {"policy": image, "base": self._base[at], "source": source}
        for name, picture in pictures.items():
            if picture is not None and (name == "policy" or not paths[name].exists()):
                paths[name].parent.mkdir(parents=True, exist_ok=True)
                picture.save(paths[name])
        relative = {
            name: paths[name].relative_to(self.folder.parent).as_posix()
            if pictures[name] is not None
            else None
            for name in paths
        }
        side = {"a": "policy", "b": "base", None: None}[verdict.preferred]
        return number, ValidationImage(
            prompt=self.examples[at].prompt, preferred=side, reason=verdict.reason, **relative
        )
