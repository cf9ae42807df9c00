"""A training run: its folder, and the settings and data files that nodes write for it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import comfy.model_management
import torch

from ..arr_core.common.files import write_text
from ..arr_core.config.presets import PRESETS
from . import folders
from .images import to_pictures

if TYPE_CHECKING:
    from ..arr_core.config.schema import TrainConfig
    from ..arr_core.rubrics.rubric import Rubric, Task
    from ..arr_core.training.events import History

# What the text of settings may set; None is every field. Names, paths and where things are sent are not among them: those
# have inputs of their own, which are confined, or a workflow must not set them at all.
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
    "optimizer": None,
    "judge": ("timeout_s", "retries", "concurrency", "outage_hours"),
    "validation": ("every", "count", "steps", "images"),
    "collapse": None,
}


@dataclass(frozen=True)
class Run:
    """What ARR_RUN carries: the folder of a run, or of an evaluation, which has events too."""

    folder: Path

    @property
    def events(self) -> Path:
        return self.folder / "events.jsonl"

    @property
    def config(self) -> TrainConfig:
        """The configuration that the run was started with."""
        from ..arr_core.config.load import load_config

        return load_config(str(self.folder / "config.yaml"))

    @property
    def adapter(self) -> Path:
        """The adapter in one file, at full strength everywhere."""
        return self.folder / f"{self.folder.name}.safetensors"

    def history(self) -> History:
        """What has happened in the run so far."""
        from ..arr_core.training.events import history, read_events

        return history(read_events(self.events) if self.events.is_file() else [])

    @property
    def resumable(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return any(path.name.isdigit() for path in (self.folder / "checkpoints").glob("*"))

    def reset(self) -> None:
        """Remove what a run leaves that ended before its first checkpoint, so that it can start anew."""
        (self.folder / "config.yaml").unlink(missing_ok=True)
        self.events.unlink(missing_ok=True)


def task_of(preset: str) -> Task:
    """What the base of a preset does."""
    return "edit" if PRESETS[preset]["policy"]["family"] == "qwen-image-edit" else "t2i"


def read_settings(text: str) -> dict[str, str]:
    """Field -> value of the lines ``section.field = value``; what follows # is a comment. Raises ValueError."""
    settings = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        match = re.fullmatch(r"([a-z]+)\.([a-z_]+)\s*[=:]\s*(.+)", line)
        if not match:
            raise ValueError(
                f"settings, line {number}: expected section.field = value, such as rollout.micro_batch = 2, "
                f"got {line[:80]!r}"
            )
        section, field, value = match.groups()
        fields = SETTABLE.get(section, ())
        if fields is not None and field not in fields:
            raise ValueError(
                f"settings, line {number}: {section}.{field} cannot be set here; expected one of "
                f"{', '.join(fields or SETTABLE)}, or use the node's own inputs"
            )
        settings[f"{section}.{field}"] = value
    return settings


def data_file(
    folder: Path,
    task: Task,
    prompts: Sequence[str],
    prompts_file: str,
    images: Sequence[torch.Tensor] | None = None,
) -> tuple[Path | None, int]:
    """The file of prompts or edits that a node's inputs name, or one made of them in ``folder``, and how many it holds.

    prompts: one text with a prompt a line, or several texts, each of which is one. images: batches of sources.
    (None, 0) where the inputs name none. All images of the file lie in ComfyUI's folders. Raises ValueError and DataError.
    """
    from ..arr_core.data import load_examples

    if len(prompts) == 1:
        prompts = prompts[0].splitlines()
    prompts = [" ".join(text.split()) for text in prompts if text.strip()]
    given = "images" if images is not None else "prompts" if prompts else ""
    if prompts_file != folders.NONE:
        if given:
            raise ValueError(
                f"prompts_file: expected it or {given}, got both; clear the one that is not meant"
            )
        path = folders.data_path(prompts_file, "prompts_file")
    elif not given:
        return None, 0
    elif images is not None:
        if task != "edit":
            raise ValueError(
                "images: expected a preset that edits images, such as qwen-image-edit; this one makes them from text"
            )
        path = _write_edits(folder, prompts, images)
    elif task == "edit":
        raise ValueError(
            "prompts: expected edits with their source images, got instructions alone; connect images where there is such "
            "an input, or choose a prompts_file of edits"
        )
    else:
        path = _write(folder, "prompts", [{"prompt": prompt} for prompt in prompts])
    return path, len(load_examples(path, task, also=folders.of_images()))


def _write_edits(folder: Path, prompts: list[str], batches: Sequence[torch.Tensor]) -> Path:
    """A file of edits, and their sources beside it: one instruction for all images, all instructions for one image, or one
    for each. Raises ValueError for counts that do not fit."""
    from ..arr_core.judging.pictures import image_hash

    sources = [picture for batch in batches for picture in to_pictures(batch)]
    count = max(len(prompts), len(sources))
    if len(prompts) not in (1, count) or len(sources) not in (1, count):
        raise ValueError(
            f"prompts: expected one edit instruction for the images, or {len(sources)}, one for each, got {len(prompts)}"
        )
    (folder / "sources").mkdir(parents=True, exist_ok=True)
    edits = []
    for number in range(count):
        source = sources[number % len(sources)]
        name = f"sources/{image_hash(source).hex()}.png"
        source.save(folder / name)
        edits.append({"source_image": name, "instruction": prompts[number % len(prompts)]})
    return _write(folder, "edits", edits)


def _write(folder: Path, stem: str, records: list[dict[str, str]]) -> Path:
    """A file of JSON lines. Its name holds the hash of its content, so that a run notices that its data changed."""
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path = folder / f"{stem}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.jsonl"
    write_text(path, text)
    return path


def save_rubric(folder: Path, rubric: Rubric) -> Path:
    """A file of the rubric. Its name holds the hash of its content, as that of ``data_file`` does."""
    path = folder / f"rubric-{rubric.content_hash}.json"
    rubric.save(path)
    return path


def device() -> str:
    """ComfyUI's own device, so that --cpu and --cuda-device hold for trainings too."""
    device = comfy.model_management.get_torch_device()
    return str(device) if device.type in ("cpu", "cuda", "mps", "xpu") else "auto"
