"""ARRTrainRPO: a training in a process of its own, watched on the node, stopped by Cancel, continued by Run."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

import comfy.model_management
import torch
from comfy_api.latest import io
from comfy_execution.graph import ExecutionBlocker
from PIL import Image

from ..arr_core.config.presets import PRESETS
from . import folders
from .child import still_running
from .follow import describe, follow
from .images import preview
from .judge import JudgeChoice
from .live import INTERRUPTED, Live
from .load_adapter import lora_model
from .plot import win_rate_picture
from .run import Run, data_file, device, read_settings, save_rubric, task_of
from .schema import (
    ADVANCED,
    JudgeSocket,
    LoraModel,
    LossMap,
    Node,
    RubricSocket,
    RunSocket,
    choice,
    line,
    number,
    schema,
)

if TYPE_CHECKING:
    from ..arr_core.config.schema import TrainConfig
    from ..arr_core.rubrics import Rubric
    from ..arr_core.training.events import History

MOST_HELD_OUT = 64
MEMORY_FIELDS = (
    "rollout.micro_batch",
    "policy.height",
    "policy.width",
    "policy.dtype",
    "policy.gradient_checkpointing",
    "adapter.rank",
)
RECENT = 20  # updates that the pace and the share of undecided pairs are about
_finished: dict[str, Path] = {}  # the folders of runs that were finished here, by name
_deleted = Counter()  # how often one of them was found deleted


@dataclass(frozen=True)
class Request:
    """What the inputs say that are no lists."""

    preset: str
    run_name: str
    updates: int
    prompts_file: str
    judge: JudgeChoice | None = None
    rubric: Rubric | None = None
    start_adapter: str = folders.NONE
    base: str = ""
    run_seed: int = 0
    settings: str = ""


class ARRTrainRPO(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ARRTrainRPO",
            [
                choice("preset", PRESETS, default="miniature"),
                line("run_name", "my run"),
                number("updates", 100, 1, 100000),
                line("prompts", multiline=True),
                choice("prompts_file", [folders.NONE, *folders.data_names()]),
                JudgeSocket.Input("judge", optional=True),
                RubricSocket.Input("rubric", optional=True),
                io.Image.Input("images", optional=True),
                choice("start_adapter", [folders.NONE, *folders.adapter_names()], optional=True),
                line("base", optional=True),
                number("run_seed", 0, 0, 2**32 - 1, optional=True),
                line("settings", multiline=True, optional=True, **ADVANCED),
            ],
            {
                "lora": LoraModel,
                "loss": LossMap,
                "steps": io.Int,
                "run": RunSocket,
                "summary": io.String,
            },
            is_input_list=True,
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs: list | None) -> object:
        """Changes with the files, and when a run that was finished here has been deleted since, to be trained anew."""
        name = (inputs.get("run_name") or [""])[0]
        if name in _finished and not _finished[name].exists():
            del _finished[name]
            _deleted[name] += 1
        return _deleted[name], Node.fingerprint_inputs(**inputs)

    @classmethod
    def execute(
        cls,
        prompts: list[str],
        images: list[torch.Tensor] | None = None,
        **inputs: list | None,
    ) -> io.NodeOutput:
        request = Request(**{name: values[0] for name, values in inputs.items() if values})
        with Live(cls) as live:
            from ..arr_core.adapters import load_adapter

            run = Run(folders.run_folder(request.run_name.strip()))
            _wait_for_earlier(run, live)
            train(run, request.updates, _arguments(run, request, prompts, images), live)
            adapter = load_adapter(run.adapter)
            history = run.history()
            sentence = history.finished.sentence if history.finished else ""
            if history.update > request.updates:
                sentence = f"The run has {history.update} updates already, more than the {request.updates} asked for. {sentence}"
            live.show_text(sentence)
        _finished[request.run_name] = run.folder
        summary = f"{sentence}\nLoRA: {_publish(run)}\nReport: {run.folder / 'report.html'}"
        losses = [event.loss for event in history.updates if event.loss is not None]
        return io.NodeOutput(
            lora_model(adapter),
            # Plot Loss Graph divides by the range of the losses.
            {"loss": losses} if len(set(losses)) > 1 else ExecutionBlocker(None),
            history.update,
            run,
            summary,
            ui={**preview([_picture(history, run)], cls), "text": [summary]},
        )


def train(run: Run, updates: int, arguments: list[str], live: Live) -> None:
    """Start the run or go on with it, and follow it to its end. Raises the interruption, ValueError and RuntimeError."""
    from ..arr_core.config.load import changed_fields, load_config

    preset, *flags = arguments = [*arguments, f"--run.updates={updates}"]
    config, history = load_config(preset, flags), run.history()
    if run.resumable:
        done = history.finished is not None and history.update >= updates
        if done and not changed_fields(run.config, config):
            return
        arguments += ["--resume", str(run.folder)]
    else:
        run.reset()
    try:
        follow("train", arguments, run, live, _Display(run, live), _memory_advice(config))
    except INTERRUPTED:
        live.show_text(f"stopped at update {run.history().update}; Run goes on from there")
        raise


class _Display:
    """What the node shows of a training: text, bar, and a picture that is drawn when there is something new in it."""

    def __init__(self, run: Run, live: Live):
        self.run, self.live = run, live
        self.drawn = self.picture = None

    def __call__(self, history: History) -> str:
        content = len(history.validations), history.total
        if self.drawn != content:
            self.drawn, self.picture = content, _picture(history, self.run)
        self.live.show_progress(history.update, history.total, self.picture)
        return " · ".join(_text(history))


def _picture(history: History, run: Run) -> Image.Image:
    return win_rate_picture(
        "win rate against the base, held-out prompts",
        history.validations,
        history.total or 1,
        run.folder,
        {"base": "before", "policy": "after"},
    )


def _text(history: History) -> list[str]:
    from ..arr_core.training.progress import duration

    progress, total = history.progress, history.total or 0
    stage = [describe(progress)] if progress else []
    if history.outage:
        return [history.outage.text]
    if not history.updates:
        return stage or ["first update ..." if history.encoded else "encoding prompts ..."]
    if history.update == total:
        return [f"{total} updates done", "measuring ...", *stage]
    recent = history.updates[-RECENT:]
    undecided = sum(event.undecided for event in recent) / sum(event.pairs for event in recent)
    pace = sum(event.seconds for event in recent) / len(recent)
    left = pace * (total - history.update)
    parts = [f"update {history.update} of {total}"]
    if history.validations and history.validations[-1].win_rate is not None:
        last = history.validations[-1]
        parts.append(f"win rate {last.win_rate:.0%} ({last.low:.0%} to {last.high:.0%})")
    return [
        *parts,
        f"undecided {undecided:.0%}",
        f"{pace:.1f} s an update",
        f"{duration(left)} left",
        *stage,
    ]


def _arguments(
    run: Run, request: Request, prompts: list[str], images: list[torch.Tensor] | None
) -> list[str]:
    """The arguments of ``python -m arr_core.train``, without updates and resume. Writes what was given as text."""
    task = task_of(request.preset)
    settings = {
        "run.output_dir": run.folder.parent,
        "run.name": run.folder.name,
        "run.seed": request.run_seed,
        "policy.device": device(),
        **read_settings(request.settings),
    }
    data, count = data_file(run.folder, task, prompts, request.prompts_file, images)
    if data is not None:
        if count < 2:
            raise ValueError(
                f"prompts: expected at least two {'edits' if task == 'edit' else 'prompts'}, as one is held out "
                f"for the win rate, got {count}"
            )
        settings |= {"data.train": data, "data.validation": "null"}
        settings.setdefault("data.validation_count", min(MOST_HELD_OUT, max(1, count // 5)))
    elif not PRESETS[request.preset]["data"].get("train"):
        raise ValueError(
            f"prompts: expected prompts for the preset {request.preset}, got nothing; type some, one a line, or choose "
            "a prompts_file"
        )
    if base := folders.base_model(request.base):
        settings["policy.base"] = base
    if request.judge:
        settings["judge.profile"] = request.judge.profile
        settings["judge.both_orders"] = request.judge.both_orders
    if request.rubric:
        settings["judge.rubric"] = save_rubric(run.folder, request.rubric)
    if request.start_adapter != folders.NONE:
        settings["adapter.start"] = folders.adapter_path(request.start_adapter)
    return [request.preset, *(f"--{field}={value}" for field, value in settings.items())]


def _wait_for_earlier(run: Run, live: Live) -> None:
    while still_running(run.folder):
        live.show_text("an earlier process of this run is finishing its update ...")
        comfy.model_management.throw_exception_if_processing_interrupted()
        time.sleep(0.5)


def _publish(run: Run) -> Path:
    """The run's file, copied to where ComfyUI looks for LoRAs."""
    from ..arr_core.common.files import atomic_write

    target = folders.output_loras() / run.adapter.name
    with atomic_write(target) as part:
        shutil.copyfile(run.adapter, part)
    return target


def _memory_advice(config: TrainConfig) -> str:
    """What to change when memory ran out, with the values that it ran out with."""
    advice = (
        "In 'settings', make some of these smaller, or set policy.gradient_checkpointing = true (and give the run another "
        "name, since a run keeps its settings):"
    )
    values = (f"{field} = {attrgetter(field)(config)}" for field in MEMORY_FIELDS)
    return "\n  ".join([advice, *values])
