"""The README's picture, from finished runs of both demos: python docs/make_pictures.py [RUN_DIR ...]

The held-out prompts whose samples a run wrote, in their order: the base above, the trained adapter below, from the same
noise. A mark says whether the image is exactly what its prompt asks for, as the program that looks at pixels finds.
"""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from arr_core.miniature.world import exact_edit, exact_image  # noqa: E402

CELL, GAP, TEXT, LEFT, LINES = 192, 16, 22, 150, 3
INK, RIGHT, WRONG, PAPER = "#1a1a1a", "#1a7f37", "#cf222e", "white"


def draw(run: Path) -> Image.Image:
    """The grid of the run's last validation: a column a prompt, and for edits the source above."""
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    last = [event for event in events if event["event"] == "validation"][-1]
    shown = last["images"]
    font = ImageFont.load_default(TEXT)
    line = sum(font.getmetrics())
    titles = {"source": "source", "base": "before", "policy": f"after {last['update']}\nupdates"}
    rows = [side for side in titles if shown[0][side]]
    top = GAP + LINES * line
    size = (LEFT + len(shown) * (CELL + GAP), top + len(rows) * (CELL + GAP))
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, entry in enumerate(shown):
        x = LEFT + column * (CELL + GAP)
        caption = "\n".join(textwrap.wrap(entry["prompt"], 17)[:LINES])
        pen.multiline_text((x, GAP // 2), caption, INK, font, spacing=0)
        images = {side: Image.open(run / entry[side]).convert("RGB") for side in rows}
        for row, side in enumerate(rows):
            y = top + row * (CELL + GAP)
            sheet.paste(images[side].resize((CELL, CELL), Image.Resampling.NEAREST), (x, y))
            box = (x, y, x + CELL - 1, y + CELL - 1)
            if side == "source":
                pen.rectangle(box, outline="#d0d7de", width=2)
                continue
            exact = is_exact(images.get("source"), images[side], entry["prompt"])
            pen.rectangle(box, outline=RIGHT if exact else WRONG, width=4)
            mark(pen, x + CELL - 36, y + 10, exact)
    for row, side in enumerate(rows):
        pen.multiline_text(
            (GAP, top + row * (CELL + GAP) + CELL // 2 - line), titles[side], INK, font
        )
    return sheet


def is_exact(source: Image.Image | None, image: Image.Image, prompt: str) -> bool:
    """Whether the image is exactly what the prompt, or the instruction of an edit, asks for."""
    return exact_image(image, prompt) if source is None else exact_edit(source, image, prompt)


def mark(pen: ImageDraw.ImageDraw, x: int, y: int, exact: bool) -> None:
    """A tick or a cross, 26 pixels wide."""
    pen.ellipse((x - 2, y - 2, x + 28, y + 28), fill=PAPER)
    if exact:
        pen.line((x + 4, y + 14, x + 11, y + 21, x + 22, y + 6), fill=RIGHT, width=4)
    else:
        pen.line((x + 6, y + 6, x + 20, y + 20), fill=WRONG, width=4)
        pen.line((x + 20, y + 6, x + 6, y + 20), fill=WRONG, width=4)


if __name__ == "__main__":
    runs = [Path(word) for word in sys.argv[1:]]
    grids = [draw(run) for run in runs or [ROOT / "runs/miniature", ROOT / "runs/miniature-edit"]]
    sheet = Image.new(
        "RGB", (max(g.width for g in grids), sum(g.height + GAP for g in grids)), PAPER
    )
    for at, grid in enumerate(grids):
        sheet.paste(grid, (0, sum(g.height + GAP for g in grids[:at])))
    target = ROOT / "docs" / "before-after.png"
    sheet.quantize(64).save(target, optimize=True)
    print(target, target.stat().st_size, "bytes")
