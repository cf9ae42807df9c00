"""Which of many verified criteria a rubric is made of: few that speak for all.

Greedy maximisation of the facility-location function f(S) = sum over all criteria i of max over chosen j of sim(i, j),
which rewards a criterion that resembles many others and pays nothing for saying a thing twice. It is monotone and
submodular, so that greedy choice reaches 1 - 1/e of the best (Nemhauser, Wolsey & Fisher, Math. Programming 14, 1978;
for choosing sentences: Lin & Bilmes, ACL 2011). The similarity is the cosine of TF-IDF vectors of words and pairs of
words (of characters, in Chinese): no further model is needed, and the same criteria always give the same choice.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

_WORD = re.compile(r"[^\W\d_\u3040-\u9fff]+|\d+|[\u3040-\u9fff]")


def select(criteria: Sequence[str], most: int) -> list[str]:
    """At most ``most`` of the criteria, each once, in the order in which they were given; all, where they are few."""
    different = list(dict.fromkeys(criteria))
    if len(different) <= most:
        return different
    return [different[at] for at in sorted(_greedy(_similarities(different), most))]


def _greedy(similarity: np.ndarray, most: int) -> list[int]:
    """Indices of the chosen rows of [N, N] similarities, the most useful first; of equals, the earlier."""
    covered, chosen = np.zeros(len(similarity)), []
    for _ in range(most):
        gains = np.maximum(similarity - covered, 0).sum(axis=1).round(9)
        gains[chosen] = -1
        chosen.append(int(gains.argmax()))
        covered = np.maximum(covered, similarity[chosen[-1]])
    return chosen


def _similarities(texts: Sequence[str]) -> np.ndarray:
    """Cosines of TF-IDF vectors, [N, N] in 0..1; a text is like itself even if it has no words."""
    counts = [Counter(_terms(text)) for text in texts]
    holders: dict[str, list[int]] = {}
    for at, count in enumerate(counts):
        for term in count:
            holders.setdefault(term, []).append(at)
    rarity = {
        term: math.log((1 + len(texts)) / (1 + len(places))) + 1 for term, places in holders.items()
    }
    weights = [
        {term: (1 + math.log(times)) * rarity[term] for term, times in count.items()}
        for count in counts
    ]
    norms = [math.sqrt(sum(weight * weight for weight in row.values())) or 1.0 for row in weights]
    similarity = np.zeros((len(texts), len(texts)))
    for term, places in holders.items():
        if len(places) > 1:  # what only one text says makes it like no other
            shares = np.array([weights[at][term] / norms[at] for at in places])
            similarity[np.ix_(places, places)] += np.outer(shares, shares)
    np.fill_diagonal(similarity, 1.0)
    return np.clip(similarity, 0, 1)


def _terms(text: str) -> list[str]:
    words = _WORD.findall(text.lower())
    return [*words, *(f"{one} {other}" for one, other in zip(words, words[1:], strict=False))]
