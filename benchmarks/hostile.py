"""How a judge's odd replies are read: every style of ``tests/doubles/hostile_replies.py`` through the real client.

    python benchmarks/hostile.py                  # 10,000 comparisons, about a minute; --comparisons, --list

A server on this machine knows which of two pictures is better and says so in the style that is asked for; the question to
repair a reply is answered in the same style. Clear replies have one verdict, for the better picture: they are right, or
lost as undecided. Unclear ones take theirs back, contradict themselves or never end: to read a verdict from one is an
accident, and wrong where it rewards the worse picture. Prints Markdown; the status is 1 where one reply was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import re
import sys
from collections import Counter
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from doubles.hostile_replies import CLEAR, UNCLEAR, render
from doubles.openai_server import OpenAIServer, Reply, Request

from arr_core.judging.client import Question
from arr_core.judging.openai_client import OpenAIChat
from arr_core.judging.pairwise import PairwiseClient
from arr_core.judging.profiles import Profile
from arr_core.rubrics import BUILT_IN

STYLES = {
    **{name: (True, style) for name, style in CLEAR.items()},
    **{name: (False, style) for name, style in UNCLEAR.items()},
}
DARK, BRIGHT = (Image.new("RGB", (16, 16), (level,) * 3) for level in (40, 200))


def answer(request: Request) -> Reply:
    """The reply in the style that the prompt names. The second picture is the better one where it is the brighter."""
    name = re.search(r"in the style: (.+)", request.text)[1]
    levels = [request.pictures[place].getpixel((0, 0))[0] for place in ("FIRST", "SECOND")]
    return render(STYLES[name][1], levels.index(max(levels)))


async def compare(client: PairwiseClient, name: str, number: int) -> str:
    """How one comparison is read: right, undecided or wrong."""
    better = number % 2
    shown = (DARK, BRIGHT) if better else (BRIGHT, DARK)
    prompt = f"comparison {number}\nin the style: {name}"
    question = Question(prompt, *shown, None, BUILT_IN["t2i"])
    opinion = await client.answer(question)
    if opinion.preferred is None:
        return "undecided"
    return "right" if opinion.preferred == better else "wrong"


async def measure(comparisons: int) -> dict[str, Counter[str]]:
    """The counts of every style, each asked about equally often and with either picture first."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in STYLES}
    with OpenAIServer(answer) as server:
        client = PairwiseClient(
            OpenAIChat(Profile(url=server.url, model="hostile"), name="hostile")
        )
        asked = [
            (name, number)
            for number, name in zip(range(comparisons), itertools.cycle(STYLES), strict=False)
        ]
        turns = (number // len(STYLES) for _, number in asked)
        tasks = [compare(client, name, turn) for (name, _), turn in zip(asked, turns, strict=True)]
        for (name, _), read in zip(asked, await asyncio.gather(*tasks), strict=True):
            counts[name][read] += 1
        await client.close()
    return counts


def table(counts: dict[str, Counter[str]]) -> str:
    """Markdown: the clear and the unclear replies, each in all."""
    rows = ["| replies | styles | asked | right | undecided | wrong |", "|---|---|---|---|---|---|"]
    for label, clear in (("clear", True), ("unclear", False)):
        chosen = [counts[name] for name, (kind, _) in STYLES.items() if kind == clear]
        total = sum(chosen, Counter())
        figures = (total[read] for read in ("right", "undecided", "wrong"))
        cells = " | ".join(f"{figure:,}" for figure in figures)
        rows.append(f"| {label} | {len(chosen)} | {total.total():,} | {cells} |")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comparisons", type=int, default=10_000)
    parser.add_argument(
        "--list", action="store_true", help="name the styles that are not as wanted"
    )
    arguments = parser.parse_args()
    counts = asyncio.run(measure(arguments.comparisons))
    print(table(counts))
    if arguments.list:
        for name, count in counts.items():
            if count["wrong"] or (STYLES[name][0] and count["undecided"]):
                print(f"{'clear' if STYLES[name][0] else 'unclear'}: {name}: {dict(count)}")
    return int(any(count["wrong"] for count in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
