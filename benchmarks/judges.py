"""What swapping, votes and logits make of a judge that likes the first picture. Prints Markdown, in about one CPU minute.

    python benchmarks/judges.py                   # --bias 0 --grain 0 for the judge without what is planted

Pairs: pictures that the embedded FLUX made for held-out prompts. One picture of each pair is exact by the ruler on pixels,
the other is not; no pair shares a picture with another, and the exact one is image a in every second pair.

Judge: the embedded vision-language model behind a chat, asked by the real clients. Three things are planted:

* bias: log P(first) / P(second) = (score of first - score of second) / temperature + bias. Logits are read from that, and a
  verdict in words is drawn from it, anew for every order and vote.
* temperature: how large a difference of scores (0..1) the draws need.
* grain: pixel noise on what the model sees, the same at every look. Its eyes are bad; what it mistakes is its own. Without
  it the model orders 98 % of these pairs rightly, which no judge of real pictures does.

Their sizes were fitted to what is published of good judges: 64-66 % of replies name the first picture, 70 % of single
replies are right, and both orders agree on 53-68 % of the pairs and are then right in 80-88 %.

What the figures show is that clients and judge do with such errors what arithmetic says. They do not show how much a judge
of yours gains. The bias is one constant in log-odds, which is exactly what swapping cancels in logits: the last rows without
bias are so by construction, and a liking that differs from pair to pair would stay. All else that is not grain is drawn
independently, which votes average out and logits never draw; the errors of real replies repeat more than that. "First
named" and the symmetric bias are of single replies, before the orders are combined (a reply that is not sure enough names
nothing).

Nor do they show what a rubric is worth. This model cannot reason about criteria: a criterion chooses the words whose
likelihood is read, "without" reads the whole sentence, and both order about as many pairs rightly (printed above the table).
With criteria one wrong part costs a quarter of the score, more than the bias, while differences of whole sentences are often
smaller than it; so the rubric's scores stand the bias better here. With ``--bias 0 --grain 0`` the words do better without.

Measure your own judge, with and without a rubric: ``python -m arr_core.judge evaluate PAIRS --rubric R``.

Intervals are Wilson's 95 %. They take pairs for independent; pairs of one prompt are less so.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from arr_core.common.images import open_image
from arr_core.common.proportions import Proportion
from arr_core.common.randomness import seed_of
from arr_core.config.load import load_config
from arr_core.data import PreferencePair, load_examples
from arr_core.judge import markdown
from arr_core.judging import Judge
from arr_core.judging.chat import Chat, Reply, RequestOptions
from arr_core.judging.logits import LogitsClient
from arr_core.judging.metrics import Measures, evaluate
from arr_core.judging.pairwise import PairwiseClient
from arr_core.judging.pictures import image_hash
from arr_core.judging.profiles import default_rubric
from arr_core.miniature.judge import FOLDER, MiniatureVLM
from arr_core.miniature.world import exact_image
from arr_core.policies.loading import load_policy
from arr_core.rubrics import NO_RUBRIC
from arr_core.sampling import Sampler

BIAS, TEMPERATURE, GRAIN = 1.0, 0.16, 70.0  # log-odds, score (0..1) per log-odds, levels (0..255)
VOTES, SURE = 5, 0.75
RUBRICS = {"with": default_rubric("miniature", "t2i"), "without": NO_RUBRIC["t2i"]}


class PlantedChat(Chat):
    """A chat that scores both pictures with the embedded model and answers from log-odds with a planted bias.

    It knows only what a server is sent: the texts and the pictures of the messages. The same words come at the same seed.
    """

    def __init__(self, vlm, *, bias: float, temperature: float = TEMPERATURE, grain: float = GRAIN):
        self.vlm, self.bias, self.temperature, self.grain = vlm, bias, temperature, grain
        self.identity = f"planted:bias={bias}:temperature={temperature}:grain={grain}"
        self._scores: dict[tuple, list[float]] = {}

    async def complete(self, messages, options=None) -> Reply:
        options = options or RequestOptions()
        prompt, criteria, pictures = read(messages)
        first, second = (self.scores(prompt, criteria, picture) for picture in pictures)
        log_odds = mean_difference(first, second) / self.temperature + self.bias
        if options.log_probs:
            known = {
                "A": -float(np.logaddexp(0, -log_odds)),
                "B": -float(np.logaddexp(0, log_odds)),
            }
            return Reply(max(known, key=known.get), log_probs=known)
        drawn = random.Random(
            seed_of("words", prompt, criteria, *map(image_hash, pictures), options.seed)
        ).random()
        findings = [
            {"criterion": number, "first": f"fits {a:.0%}", "second": f"fits {b:.0%}"}
            for number, (a, b) in enumerate(zip(first, second, strict=True), 1)
        ]
        said = "first" if math.log(drawn) < -np.logaddexp(0, -log_odds) else "second"
        return Reply(
            json.dumps(
                {"findings": findings, "reason": f"the {said} fits better", "preferred": said}
            )
        )

    def scores(self, prompt: str, criteria: tuple[str, ...], picture: Image.Image) -> list[float]:
        """How well a picture, seen through the grain, fits each criterion (0..1)."""
        key = prompt, criteria, image_hash(picture)
        if key not in self._scores:
            noise = np.random.default_rng(seed_of("grain", key[2])).normal(
                0, self.grain, (picture.height, picture.width, 3)
            )
            seen = Image.fromarray(
                (np.asarray(picture.convert("RGB")) + noise).clip(0, 255).astype(np.uint8)
            )
            self._scores[key] = self.vlm.criterion_scores([[seen]], [prompt], criteria)[0]
        return self._scores[key]


def mean_difference(first: Sequence[float], second: Sequence[float]) -> float:
    """By how much the first fits better, over all criteria: -1..1."""
    return (sum(first) - sum(second)) / len(first)


def read(messages) -> tuple[str, tuple[str, ...], list[Image.Image]]:
    """Prompt, criteria and the two pictures of a question, in the order shown, from its messages."""
    parts = next(
        message["content"] for message in messages if not isinstance(message["content"], str)
    )
    mark = re.search(r"\[data \w+\]", parts[0]["text"])[0]
    _, prompt, listed, _ = parts[0]["text"].split(f"\n{mark} ")
    prompt, listed = (text.partition("\n")[2] for text in (prompt, listed))
    criteria = tuple(line.partition(". ")[2] for line in listed.splitlines())
    first, second = (part["image"] for part in parts if part["type"] == "image")
    return prompt, criteria, [first, second]


def labelled_pairs(folder: Path, images: int) -> list[PreferencePair]:
    """Pairs of an exact and an inexact picture, from ``images`` of the embedded FLUX for each held-out prompt."""
    config, pairs = load_config("miniature"), []
    examples = load_examples("miniature:data/prompts_heldout.txt", "t2i")
    policy = load_policy(config.policy, folder / "encodings")
    policy.encode(examples)
    settings = config.rollout.model_copy(update={"micro_batch": images})
    for number, example in enumerate(tqdm(examples, "pictures", unit="prompt")):
        seeds = [seed_of("judges", number, at) for at in range(images)]
        made = Sampler(policy, [example] * images, seeds, settings).images()
        paths = {True: [], False: []}
        for at, image in enumerate(made):
            path = folder / f"{number}-{at}.png"
            image.save(path)
            paths[exact_image(image, example.prompt)].append(path)
        for better, worse in zip(paths[True], paths[False], strict=False):
            preferred = len(pairs) % 2
            pairs.append(
                PreferencePair(
                    example.prompt, (worse, better) if preferred else (better, worse), preferred
                )
            )
    return pairs


def ways(chat: PlantedChat) -> dict[str, tuple]:
    """Each row's client, and whether it is asked in both orders."""
    words, voting = PairwiseClient(chat), PairwiseClient(chat, votes=VOTES)
    return {
        "words, one order": (words, False),
        "words, both orders": (words, True),
        f"{VOTES} votes, one order": (voting, False),
        f"{VOTES} votes, both orders": (voting, True),
        "logits, one order": (LogitsClient(chat), False),
        "logits, both orders": (LogitsClient(chat, threshold=0.5), True),
        f"logits, both orders, {SURE:.0%} sure": (LogitsClient(chat, threshold=SURE), True),
    }


def unplanted(
    chat: PlantedChat, pairs: Sequence[PreferencePair], criteria: tuple[str, ...]
) -> tuple[Proportion, float]:
    """What the scores alone say: the share of pairs that they order rightly, and how sure they are on average (1/2..1)."""
    differences = [
        mean_difference(
            *(
                chat.scores(pair.prompt, criteria, open_image(pair.images[at]))
                for at in (pair.preferred, 1 - pair.preferred)
            )
        )
        for pair in pairs
    ]
    sure = [1 / (1 + math.exp(-abs(difference) / chat.temperature)) for difference in differences]
    return Proportion(sum(difference > 0 for difference in differences), len(pairs)), sum(
        sure
    ) / len(sure)


def row(label: str, rubric: str, found: Measures) -> list[str]:
    """The cells of one row."""
    bias = "-" if found.symmetric_bias is None else f"{100 * found.symmetric_bias:+.1f}"
    return [
        label,
        rubric,
        f"{found.accuracy}",
        f"{found.coverage}",
        f"{found.first_position_rate}",
        bias,
        f"{found.calls / found.pairs:g}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--bias",
        type=float,
        default=BIAS,
        help="log-odds that the first place adds (default %(default)s)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=TEMPERATURE,
        help="score per log-odds (default %(default)s)",
    )
    parser.add_argument(
        "--grain",
        type=float,
        default=GRAIN,
        help="levels of pixel noise, 0..255 (default %(default)s)",
    )
    parser.add_argument(
        "--images", type=int, default=16, help="pictures made for each prompt (default %(default)s)"
    )
    options = parser.parse_args()
    if not (options.temperature >= 0.01 and options.grain >= 0 and options.images >= 2):
        parser.error(
            "expected --temperature of 0.01 or more, --grain of 0 or more, --images of 2 or more"
        )
    os.environ.pop(
        "ARR_VERDICTS", None
    )  # every call is made and counted, none remembered from another run
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        pairs = labelled_pairs(Path(folder), options.images)
        if not pairs:
            parser.error(
                f"no prompt has both an exact and an inexact picture among {options.images}; raise --images"
            )
        chat = PlantedChat(
            MiniatureVLM.load(FOLDER / "judge"),
            bias=options.bias,
            temperature=options.temperature,
            grain=options.grain,
        )
        scored = {
            name: unplanted(chat, pairs, rubric.statements) for name, rubric in RUBRICS.items()
        }
        rows = []
        for label, (client, both) in tqdm(ways(chat).items(), "judging", unit="way"):
            for name, rubric in RUBRICS.items():
                with Judge(client, rubric, both_orders=both) as judge:
                    rows.append(row(label, name, evaluate(judge, pairs)))
    print(
        f"{len(pairs)} pairs, {len({pair.prompt for pair in pairs})} prompts; planted: bias {options.bias:g}, "
        f"temperature {options.temperature:g}, grain {options.grain:g}.",
        "Without bias and draws: "
        + "; ".join(
            f"{name} the rubric {right} right, {sure:.0%} sure"
            for name, (right, sure) in scored.items()
        )
        + ".\n",
        sep="\n",
    )
    print(
        markdown(
            [
                "asked",
                "rubric",
                "right, of the decided",
                "decided",
                "first named, of replies",
                "symmetric bias, points",
                "calls a pair",
            ],
            rows,
        )
    )
    print(f"\n{time.process_time() / 60:.1f} CPU minutes")


if __name__ == "__main__":
    main()
