"""The embedded prompts and edits, written as the ordinary data files that a user would bring."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

from . import scenes
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
        prompts = [
            p for p in map(scenes.prompt_of, scenes.requests()) if scenes.held_out(p) == wanted
        ]
        rng.shuffle(prompts)
        (folder / f"prompts_{split}.txt").write_text("".join(f"{prompt}\n" for prompt in prompts))
        lines = []
        for number, edit in enumerate(
            e for e in scenes.edits() if scenes.held_out(scenes.instruction_of(e)) == wanted
        ):
            for copy in range(EDITS_A_SPLIT[split]):
                path = f"sources/{split}_{number:02d}_{copy}.png"
                scenes.render(scene_for(edit, rng)).save(folder / path, optimize=True)
                lines.append(
                    json.dumps({"source_image": path, "instruction": scenes.instruction_of(edit)})
                )
        rng.shuffle(lines)
        (folder / f"edits_{split}.jsonl").write_text("".join(f"{line}\n" for line in lines))
        print(split, len(prompts), "prompts", len(lines), "edits", flush=True)
