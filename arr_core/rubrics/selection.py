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

_WORD = re.compile(r"[^\W\d_\u3040-\u9fff]+|\d+|[\u3040-\u9fff]")


def select(criteria: Sequence[str], most: int) -> list[str]:
    """At most ``most`` of the criteria, each once, in the order in which they were given; all, where they are few."""
    different = list(dict.fromkeys(criteria))
    if len(different) <= most:
        return different
    return [different[at] for at in sorted(_greedy(_similarities(different), most))]


def _greedy(similarity, most: int) -> list[int]:
    """Places of the chosen rows of [N, N] similarities, the most useful first; of equals, the earlier."""
    import numpy as np

    covered, chosen = np.zeros(len(similarity)), []
    for _ in range(most):
        gains = np.maximum(similarity - covered, 0).sum(axis=1).round(9)
        gains[chosen] = -1
        chosen.append(int(gains.argmax()))
        covered = np.maximum(covered, similarity[chosen[-1]])
    return chosen


def _similarities(texts: Sequence[str]):
    """Cosines of TF-IDF vectors, [N, N] in 0..1."""
    import numpy as np

    counts = [Counter(_terms(text)) for text in texts]
    documents = Counter(term for count in counts for term in count)
    column = {term: at for at, term in enumerate(documents)}
    vectors = np.zeros((len(texts), max(1, len(column))))
    for row, count in enumerate(counts):
        for term, times in count.items():
            vectors[row, column[term]] = (1 + math.log(times)) * (math.log((1 + len(texts)) / (1 + documents[term])) + 1)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.where(norms == 0, 1, norms)
    return np.clip(vectors @ vectors.T, 0, 1)


def _terms(text: str) -> list[str]:
    words = _WORD.findall(text.lower())
    return [*words, *(f"{one} {other}" for one, other in zip(words, words[1:], strict=False))]
