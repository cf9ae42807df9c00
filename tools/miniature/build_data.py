"""The embedded prompts and edits, written as the ordinary data files that a user would bring."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

from arr_core.miniature import world

from .build import scene_for

EDITS_A_SPLIT = {"train": 4, "heldout": 6}  # pictures for each instruction


def write_data(folder: Path) -> None:
    """Write prompts_{train,heldout}.txt and edits_{train,heldout}.jsonl with their source pictures.

    Splits share no prompt and no instruction.
    """
    shutil.rmtree(folder, ignore_errors=True)
    rng = random.Random(3)
    for split in ("train", "heldout"):
        (folder / "sources").mkdir(parents=True, exist_ok=True)
        wanted = split == "heldout"
        prompts = [r.prompt for r in world.requests() if world.held_out(r.prompt) == wanted]
        rng.shuffle(prompts)
        (folder / f"prompts_{split}.txt").write_text("".join(f"{prompt}\n" for prompt in prompts))
        lines = []
        for number, edit in enumerate(
            e for e in world.edits() if world.held_out(e.instruction) == wanted
        ):
            for copy in range(EDITS_A_SPLIT[split]):
                path = f"sources/{split}_{number:02d}_{copy}.png"
                world.render(scene_for(edit, rng)).save(folder / path, optimize=True)
                lines.append(json.dumps({"source_image": path, "instruction": edit.instruction}))
        rng.shuffle(lines)
        (folder / f"edits_{split}.jsonl").write_text("".join(f"{line}\n" for line in lines))
        print(split, len(prompts), "prompts", len(lines), "edits", flush=True)
