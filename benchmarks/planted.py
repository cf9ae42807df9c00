"""A training run with a judge that errs by design: which verdicts err depends on the question alone.

    python benchmarks/planted.py --judge.flip_rate 0.2 miniature --run.updates 50

``--judge.flip_rate`` turns that share of the decided verdicts around; with the probability ``--judge.position_bias`` an
opinion names the first image, whatever it shows. Everything else goes to ``python -m arr_core.train``.
"""

from __future__ import annotations

import argparse
import functools
import random
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from arr_core import train
from arr_core.judging import Judge, Opinion, Pair, Verdict
from arr_core.judging.judge import hash_images
from arr_core.judging.verdict import combine
from arr_core.rubrics import Rubric
from arr_core.training import trainer


class PlantedJudge(Judge):
    """A judge whose verdicts err at these rates, the same for the same question. What it stores is right."""

    def __init__(self, *arguments, flip_rate: float = 0.0, position_bias: float = 0.0, **settings):
        super().__init__(*arguments, **settings)
        self.flip_rate, self.position_bias = flip_rate, position_bias

    async def _compare(self, pairs: list[Pair], rubric: Rubric) -> list[Verdict]:
        verdicts = await super()._compare(pairs, rubric)
        hashes = await self._work(hash_images, pairs)
        asked = [self._questions(*each, rubric) for each in zip(pairs, hashes, strict=True)]
        keys = [[order[0][0] for order in orders] for orders in asked]
        return [self._erring(*each) for each in zip(keys, verdicts, strict=True)]

    def _erring(self, keys: list[str], verdict: Verdict) -> Verdict:
        opinions = zip(keys, verdict.opinions, strict=True)
        verdict = combine(tuple(self._biased(*each) for each in opinions))
        if not verdict.decided or random.Random(f"flip {keys[0]}").random() >= self.flip_rate:
            return verdict
        return replace(verdict, preferred="b" if verdict.preferred == "a" else "a")

    def _biased(self, key: str, opinion: Opinion) -> Opinion:
        if opinion.failure or random.Random(f"bias {key}").random() >= self.position_bias:
            return opinion
        return Opinion(0, "planted position bias", cached=opinion.cached, calls=opinion.calls)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--judge.flip_rate", dest="flip_rate", type=float, default=0.0)
    parser.add_argument("--judge.position_bias", dest="position_bias", type=float, default=0.0)
    rates, words = parser.parse_known_args()
    trainer.Judge = functools.partial(PlantedJudge, **vars(rates))
    return train.main(words)


if __name__ == "__main__":
    sys.exit(main())
