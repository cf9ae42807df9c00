"""A training run: its folder, and the words that start it or go on with it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import comfy.model_management

from . import folders

if TYPE_CHECKING:
    from PIL import Image

    from ..arr_core.training.events import History

# What the text of settings may set. Names, paths and where things are sent are not among them: those have inputs of their
# own, which are confined, or are no business of a workflow.
SETTABLE = {
    "run": ("save_every", "keep_checkpoints", "threads"),
    "policy": (
        "dtype",
        "device",
        "height",
        "width",
        "guidance_scale",
        "true_cfg_scale",
        "negative_prompt",
        "max_sequence_length",
        "condition_area",
        "gradient_checkpointing",
        "quantization",
    ),
    "adapter": ("rank", "alpha", "dropout", "targets", "ema_decay"),
    "data": ("validation_count",),
    "rollout": None,
    "objective": None,
    "optimizer": None,  # every field
    "judge": ("timeout_s", "retries", "concurrency"),
    "validation": ("every", "count", "steps", "images"),
}


@dataclass(frozen=True)
class Run:
    """What ARR_RUN carries: the folder of a run."""

    folder: Path

    def history(self) -> History:
        """What has happened in the run so far."""
        from ..arr_core.training.events import history, read_events

        path = self.folder / "events.jsonl"
        return history(read_events(path) if path.is_file() else [])

    @property
    def resumable(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return any(path.name.isdigit() for path in (self.folder / "checkpoints").glob("*"))

    def forget(self) -> None:
        """Take away what a run leaves that ended before its first checkpoint, so that it can start anew."""
        for name in ("config.yaml", "events.jsonl"):
            (self.folder / name).unlink(missing_ok=True)


def settings_words(text: str) -> list[str]:
    """The flags of lines ``section.field = value``; empty lines and those after # say nothing. Raises ValueError."""
    words = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        match = re.fullmatch(r"([a-z]+)\.([a-z_]+)\s*[=:]\s*(.+)", line)
        if not match:
            raise ValueError(
                f"settings, line {number}: expected section.field = value, such as rollout.micro_batch = 2, "
                f"came {line[:80]!r}"
            )
        section, field, value = match.groups()
        if section not in SETTABLE or (
            SETTABLE[section] is not None and field not in SETTABLE[section]
        ):
            raise ValueError(
                f"settings, line {number}: {section}.{field} cannot be set here; "
                f"{_settable(section)}, or use the node's own inputs"
            )
        words.append(f"--{section}.{field}={value}")
    return words


def _settable(section: str) -> str:
    fields = SETTABLE.get(section)
    if section not in SETTABLE:
        return f"the sections are {', '.join(SETTABLE)}"
    return f"of {section} there are {', '.join(fields)}" if fields else ""


def prompts_of(texts: Sequence[str]) -> list[str]:
    """The prompts of a text with one a line, or of a list of texts, each of which is one."""
    if len(texts) == 1:
        return [line.strip() for line in texts[0].splitlines() if line.strip()]
    return [" ".join(text.split()) for text in texts if text.strip()]


def write_prompts(folder: Path, prompts: Sequence[str]) -> Path:
    """A file of prompts in the run's folder. Its name says what is in it, so that a run notices that it changed."""
    lines = "".join(json.dumps({"prompt": prompt}, ensure_ascii=False) + "\n" for prompt in prompts)
    return _write(folder, "prompts", lines)


def write_edits(folder: Path, prompts: Sequence[str], sources: Sequence[Image.Image]) -> Path:
    """A file of edits in the run's folder, and their sources beside it: one instruction for all images, all instructions for
    one image, or one for each. Raises ValueError for counts that do not fit."""
    if 1 not in (len(prompts), len(sources)) and len(prompts) != len(sources):
        raise ValueError(
            f"prompts: expected one instruction, or {len(sources)}, one for each image, came {len(prompts)}"
        )
    count = max(len(prompts), len(sources))
    prompts, sources = (
        list(part) * count if len(part) == 1 else part for part in (prompts, sources)
    )
    (folder / "sources").mkdir(parents=True, exist_ok=True)
    records = []
    for prompt, source in zip(prompts, sources, strict=True):
        name = f"sources/{hashlib.sha256(repr(source.size).encode() + source.tobytes()).hexdigest()[:16]}.png"
        if not (folder / name).exists():
            source.save(folder / name)
        records.append({"source_image": name, "instruction": prompt})
    return _write(
        folder,
        "edits",
        "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records),
    )


def _write(folder: Path, stem: str, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.jsonl"
    path.write_text(text, encoding="utf-8")
    return path


def check_examples(path: Path | str, task: str) -> int:
    """How many prompts or edits a file holds, once all its images are known to lie in ComfyUI's folders."""
    from ..arr_core.common.paths import resource
    from ..arr_core.data import load_examples

    examples = load_examples(path, task)
    folders.confine(
        [example.source for example in examples if example.source and resource(path) is None]
    )
    return len(examples)


def device() -> str:
    """ComfyUI's own device, so that --cpu and --cuda-device hold for trainings too."""
    device = comfy.model_management.get_torch_device()
    return str(device) if device.type in ("cpu", "cuda", "mps", "xpu") else "auto"
