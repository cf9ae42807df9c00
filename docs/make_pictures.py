"""The README's picture, from a finished run of the demo: python docs/make_pictures.py [RUN_DIR]

The held-out prompts whose samples the run wrote, in their order: the base above, the trained adapter below, from the
same noise. A mark says whether the image is exactly what its prompt asks for, as the program that looks at pixels finds.
"""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from arr_core.miniature.world import exact_image  # noqa: E402

CELL, GAP, TEXT, LEFT, LINES = 192, 16, 22, 150, 3
INK, RIGHT, WRONG, PAPER = "#1a1a1a", "#1a7f37", "#cf222e", "white"


def draw(run: Path) -> Image.Image:
    """The grid of the run's last validation."""
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    last = [event for event in events if event["event"] == "validation"][-1]
    shown = last["images"]
    font = ImageFont.load_default(TEXT)
    line = sum(font.getmetrics())
    top = GAP + LINES * line
    size = (LEFT + len(shown) * (CELL + GAP), top + 2 * (CELL + GAP))
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    titles = {"base": "before", "policy": f"after {last['update']}\nupdates"}
    for row, (side, title) in enumerate(titles.items()):
        y = top + row * (CELL + GAP)
        pen.multiline_text((GAP, y + CELL // 2 - line), title, INK, font)
        for column, entry in enumerate(shown):
            x = LEFT + column * (CELL + GAP)
            image = Image.open(run / entry[side]).convert("RGB")
            sheet.paste(image.resize((CELL, CELL), Image.Resampling.NEAREST), (x, y))
            exact = exact_image(image, entry["prompt"])
            pen.rectangle(
                (x, y, x + CELL - 1, y + CELL - 1), outline=RIGHT if exact else WRONG, width=4
            )
            mark(pen, x + CELL - 36, y + 10, exact)
            if row == 0:
                caption = "\n".join(textwrap.wrap(entry["prompt"], 17)[:LINES])
                pen.multiline_text((x, GAP // 2), caption, INK, font, spacing=0)
    return sheet


def mark(pen: ImageDraw.ImageDraw, x: int, y: int, exact: bool) -> None:
    """A tick or a cross, 26 pixels wide."""
    pen.ellipse((x - 2, y - 2, x + 28, y + 28), fill=PAPER)
    if exact:
        pen.line((x + 4, y + 14, x + 11, y + 21, x + 22, y + 6), fill=RIGHT, width=4)
    else:
        pen.line((x + 6, y + 6, x + 20, y + 20), fill=WRONG, width=4)
        pen.line((x + 20, y + 6, x + 6, y + 20), fill=WRONG, width=4)


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "runs" / "miniature"
    target = ROOT / "docs" / "before-after.png"
    draw(folder).quantize(64).save(target, optimize=True)
    print(target, target.stat().st_size, "bytes")
