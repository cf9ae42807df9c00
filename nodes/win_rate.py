"""ARRWinRate: how often a judge prefers an adapter to its base, or to another adapter."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..arr_core.config.presets import PRESETS
from . import folders
from .follow import describe, follow
from .images import preview, to_tensor
from .judge import JudgeChoice
from .live import Live
from .plot import win_rate_picture
from .run import Run, data_file, device, save_rubric, task_of
from .schema import (
    ADVANCED,
    JudgeSocket,
    Node,
    RubricSocket,
    RunSocket,
    choice,
    line,
    number,
    schema,
)

if TYPE_CHECKING:
    from ..arr_core.rubrics import Rubric
    from ..arr_core.training.events import History

BASE = "(the base)"
MEMORY_ADVICE = (
    "Close what else uses it, or train and compare at a smaller size (policy.height, policy.width)."
)


class ARRWinRate(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        adapters = folders.adapter_names()
        return schema(
            "ARRWinRate",
            [
                choice("preset", PRESETS, default="miniature"),
                choice("adapter", [folders.NONE, *adapters]),
                choice("against", [BASE, *adapters]),
                line("prompts", multiline=True),
                choice("prompts_file", [folders.NONE, *folders.data_names()]),
                number("limit", 64, 1, 100000),
                number("seeds", 1, 1, 64),
                RunSocket.Input("run", optional=True),
                JudgeSocket.Input("judge", optional=True),
                RubricSocket.Input("rubric", optional=True),
                line("base", optional=True, **ADVANCED),
                number("first_seed", 0, 0, 2**62, optional=True, **ADVANCED),
                number("steps", 0, 0, 1000, optional=True, **ADVANCED),
            ],
            {
                "win_rate": io.Float,
                "low": io.Float,
                "high": io.Float,
                "plot": io.Image,
                "summary": io.String,
                "report": io.String,
            },
        )

    @classmethod
    def execute(
        cls,
        preset,
        adapter,
        against,
        prompts,
        prompts_file,
        limit,
        seeds,
        run: Run | None = None,
        judge: JudgeChoice | None = None,
        rubric: Rubric | None = None,
        base="",
        first_seed=0,
        steps=0,
    ) -> io.NodeOutput:
        with Live(cls) as live:
            from ..arr_core.common.command import new_folder

            evaluation = Run(new_folder(str(folders.output("win rates"))))
            task = run.config.task if run else task_of(preset)
            data, _ = data_file(evaluation.folder, task, [prompts], prompts_file)
            if run:
                arguments = [str(run.folder)]
            elif adapter == folders.NONE:
                raise ValueError(
                    "adapter: expected an adapter to compare, got none; choose one, or connect a run"
                )
            else:
                arguments = [
                    folders.base_model(base) or preset,
                    f"--adapter={folders.adapter_path(adapter)}",
                ]
                data = data or PRESETS[preset]["data"].get("validation")
                if data is None:
                    raise ValueError(
                        "prompts: expected prompts, got none; type some, one a line, choose a prompts_file, or connect a run"
                    )
            if judge and not judge.both_orders:
                arguments.append("--no-both-orders")
            options = {
                "against": folders.adapter_path(against) if against != BASE else None,
                "prompts": data,
                "limit": limit,
                "count": seeds,
                "seed": first_seed,
                "steps": steps or None,
                "judge": judge and judge.profile,
                "rubric": rubric and save_rubric(evaluation.folder, rubric),
                "device": device(),
                "output": evaluation.folder,
            }
            arguments += [
                f"--{name}={value}" for name, value in options.items() if value is not None
            ]

            def show(history: History) -> str:
                if history.progress is None:
                    return "loading ..."
                live.show_progress(history.progress.done, history.progress.total)
                return describe(history.progress)

            follow("evaluate", arguments, evaluation, live, show, MEMORY_ADVICE)
            result = json.loads((evaluation.folder / "result.json").read_text(encoding="utf-8"))
            live.show_text(result["sentence"])
        outcome = evaluation.history().validations[-1]
        columns = {"policy": result["name"], "base": result["against"]}
        title = " against ".join(columns.values())
        picture = win_rate_picture(title, [outcome], 0, evaluation.folder, columns)
        return io.NodeOutput(
            0.5 if outcome.win_rate is None else outcome.win_rate,
            outcome.low,
            outcome.high,
            to_tensor(picture),
            result["sentence"],
            str(evaluation.folder / "report.html"),
            ui={**preview([picture], cls), "text": [result["sentence"]]},
        )
