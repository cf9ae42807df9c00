"""Questions a second through the judge, against the ideal and against the openai package alone.

``python benchmarks/judging.py``: a server in another process answers every request after 0.2 s, 64 requests are in
flight. The ideal is (requests / 64) * 0.2 s. Every pair has pictures of its own, as in training, which are sent as to a
server of this machine, or with ``--compress`` as to another. The machine should be left alone: at 320 requests a second
every millisecond of a core counts, and the openai package alone needs one or two.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageChops

sys.path[:0] = [
    str(Path(__file__).resolve().parent.parent),
    str(Path(__file__).resolve().parent.parent / "tests"),
]

from doubles.slow_server import slow_server  # noqa: E402

from arr_core.judging import Judge, Pair
from arr_core.judging.chat import RequestLimits
from arr_core.judging.openai_client import OpenAIChat
from arr_core.judging.pairwise import PairwiseClient
from arr_core.judging.pictures import data_uri
from arr_core.judging.profiles import Profile
from arr_core.rubrics import BUILT_IN

IN_FLIGHT, DELAY_S = 64, 0.2


def pairs(count: int, picture: Image.Image) -> list[Pair]:
    """Pairs of the picture, moved by another way in each; two sides squared are ways enough."""
    side = picture.width

    def moved(place: int) -> Image.Image:
        return ImageChops.offset(picture, place % side, place // side)

    return [Pair(f"prompt {at}", moved(2 * at), moved(2 * at + 1)) for at in range(count)]


def through_the_judge(
    url: str, requests: int, picture: Image.Image, compress: bool
) -> tuple[float, float]:
    """Wall and CPU seconds of ``requests`` questions, both orders of half as many pairs."""
    chat = OpenAIChat(Profile(url=url, model="m"), RequestLimits(concurrency=IN_FLIGHT))
    chat._images.compress = compress
    first, *others = pairs(requests // 2 + 1, picture)
    with Judge(PairwiseClient(chat), BUILT_IN["t2i"]) as judge:
        warm = [replace(first, prompt=f"warm {at}") for at in range(IN_FLIGHT)]
        judge.submit(warm).result()
        wall, cpu = time.monotonic(), time.process_time()
        verdicts = judge.submit(others).result()
        assert not any(verdict.failed for verdict in verdicts)
        return time.monotonic() - wall, time.process_time() - cpu


def openai_alone(url: str, requests: int, size: int) -> tuple[float, float]:
    """Wall and CPU seconds of as many completions with a body of the same size and nothing around them."""
    import openai

    async def ask() -> tuple[float, float]:
        client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
        free = asyncio.Semaphore(IN_FLIGHT)

        async def one() -> None:
            async with free:
                await client.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": "x" * size}]
                )

        await asyncio.gather(*(one() for _ in range(IN_FLIGHT)))
        wall, cpu = time.monotonic(), time.process_time()
        await asyncio.gather(*(one() for _ in range(requests)))
        taken = time.monotonic() - wall, time.process_time() - cpu
        await client.close()
        return taken

    return asyncio.run(ask())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=2048)
    parser.add_argument(
        "--side", type=int, nargs="*", default=[32, 256, 512], help="pixels of the square pictures"
    )
    parser.add_argument("--repeats", type=int, default=3, help="of which the fastest is reported")
    parser.add_argument(
        "--compress", action="store_true", help="send pictures as to a server of another machine"
    )
    options = parser.parse_args()
    ideal = options.requests / IN_FLIGHT * DELAY_S
    print(
        f"{options.requests} requests, {IN_FLIGHT} in flight, {DELAY_S} s a reply: ideal {ideal:.2f} s\n"
    )
    print(
        "| picture | through the judge | of the ideal | CPU ms a request | openai alone | of the ideal | CPU ms a request |"
    )
    print("|---|---|---|---|---|---|---|")
    with slow_server(DELAY_S) as url:
        for side in options.side:
            picture = Image.effect_noise((side, side), 40).convert("RGB")
            size = 2 * len(data_uri(picture, 1024, compress=options.compress))
            judged = min(
                through_the_judge(url, options.requests, picture, options.compress)
                for _ in range(options.repeats)
            )
            alone = min(openai_alone(url, options.requests, size) for _ in range(options.repeats))
            print(
                f"| {side} x {side} | "
                + " | ".join(
                    f"{wall:.2f} s | {wall / ideal:.2f} | {1000 * cpu / options.requests:.2f}"
                    for wall, cpu in (judged, alone)
                )
                + " |",
                flush=True,
            )


if __name__ == "__main__":
    main()
