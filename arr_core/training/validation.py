"""The policy against the frozen base on held-out prompts, same seeds: the one number that shows progress."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..data import Example, open_image
from ..intervals import wilson
from ..judging import Judge, JudgeError, Pair, Verdict
from ..policies.policy import Policy
from . import distributed
from .image_statistics import image_statistics
from .randomness import seed_of
from .rollout import sample


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


def sample_images(policy: Policy, keys: Sequence[str], seeds: Sequence[int], *, steps: int, shift: float,
                  micro_batch: int) -> list[Image.Image]:
    """One noise-free image a key, in order; equal sizes share batches."""
    images: list[Image.Image | None] = [None] * len(keys)
    by_size: dict[tuple[int, int], list[int]] = {}
    for at, key in enumerate(keys):
        by_size.setdefault(policy.size(key), []).append(at)
    for places in by_size.values():
        for start in range(0, len(places), micro_batch):
            chosen = places[start:start + micro_batch]
            batch = policy.batch([keys[at] for at in chosen])
            path = sample(policy, batch, [seeds[at] for at in chosen], policy.sigmas(steps, shift))
            for at, image in zip(chosen, policy.decode(path.picture, batch), strict=True):
                images[at] = image
    return images


class Validation:
    """Held-out prompts with their base images, made once; ``run`` compares the adapter with them."""

    def __init__(self, policy: Policy, judge: Judge, examples: Sequence[Example], keys: Sequence[str], config,
                 folder: Path):
        share = slice(distributed.rank(), None, distributed.world_size())
        self.numbers = list(range(len(examples)))[share]
        self.examples, self.keys = list(examples)[share], list(keys)[share]
        self.policy, self.judge, self.config, self.folder = policy, judge, config, folder
        self.seeds = [seed_of(config.run.seed, "validation", number) for number in self.numbers]
        self._base: list[Image.Image] = []

    def run(self, update: int) -> tuple[Score, dict]:
        """The score over all processes, and the fields of its event. Writes sample images."""
        if not self._base:
            with self.policy.reference():
                self._base = self._sample()
        images = self._sample()
        pairs = [Pair(example.prompt, image, base, example.source and open_image(example.source))
                 for example, image, base in zip(self.examples, images, self._base, strict=True)]
        verdicts: list[Verdict] = distributed.together(self.judge.submit(pairs).result, JudgeError)
        shown = [self._show(update, at, images[at], verdicts[at]) for at, number in enumerate(self.numbers)
                 if number < self.config.validation.images]
        parts = distributed.gather((verdicts, shown, images, self._base))
        verdicts = [verdict for part in parts for verdict in part[0]]
        wins, losses = (sum(verdict.preferred == side for verdict in verdicts) for side in "ab")
        score = Score(wins, losses, len(verdicts) - wins - losses)
        low, high = score.interval
        statistics = {"base": image_statistics([image for part in parts for image in part[3]]),
                      "policy": image_statistics([image for part in parts for image in part[2]])}
        return score, {
            "update": update, "wins": wins, "losses": losses, "undecided": score.undecided, "win_rate": score.win_rate,
            "low": low, "high": high, "statistics": statistics, "judge_calls": sum(v.calls for v in verdicts),
            "judge_tokens": sum(v.tokens for v in verdicts), "judge_cost": sum(v.cost for v in verdicts),
            "images": sorted((item for part in parts for item in part[1]), key=lambda item: item.pop("number"))}

    def _sample(self) -> list[Image.Image]:
        settings, rollout = self.config.validation, self.config.rollout
        return sample_images(self.policy, self.keys, self.seeds, steps=settings.steps or rollout.steps,
                             shift=rollout.shift, micro_batch=rollout.micro_batch)

    def _show(self, update: int, at: int, image: Image.Image, verdict: Verdict) -> dict:
        number, source = self.numbers[at], self.examples[at].source
        paths = {"policy": self.folder / f"{update:05d}" / f"{number:03d}.png",
                 "base": self.folder / "base" / f"{number:03d}.png",
                 "source": self.folder / "source" / f"{number:03d}.png"}
        pictures = {"policy": image, "base": self._base[at], "source": source and open_image(source)}
        for name, picture in pictures.items():
            if picture is not None and (name == "policy" or not paths[name].exists()):
                paths[name].parent.mkdir(parents=True, exist_ok=True)
                picture.save(paths[name])
        relative = {name: paths[name].relative_to(self.folder.parent).as_posix() if pictures[name] is not None else None
                    for name in paths}
        side = {"a": "policy", "b": "base", None: None}[verdict.preferred]
        return {"number": number, "prompt": self.examples[at].prompt, **relative, "preferred": side,
                "reason": verdict.reason}
