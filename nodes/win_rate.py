"""ARRWinRate: how often a judge prefers an adapter to its base, or to another adapter."""

from __future__ import annotations

import json
from pathlib import Path

import comfy.model_management
from comfy_api.latest import io

from ..arr_core.config.presets import PRESETS
from . import folders
from .child import Child, let_models_go
from .live import Live
from .pictures import shown, to_image
from .plot import contest_picture
from .run import Run, check_examples, device, prompts_of, write_prompts
from .schema import JudgeSocket, RubricSocket, RunSocket, advanced, explained, schema

BASE = "(the base)"


class ARRWinRate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        adapters = folders.adapter_names()
        return schema(
            "ARRWinRate",
            "Win Rate",
            is_output_node=True,
            description=(
                "Two adapters, or one and its base, on the same prompts and seeds: how often the judge prefers the first, with "
                "a 95 % interval."
            ),
            search_aliases=["evaluate", "compare adapters", "benchmark", "arr"],
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=["miniature", *(name for name in PRESETS if name != "miniature")],
                    tooltip=("Whose base and sizes are used; a connected run brings its own."),
                ),
                io.Combo.Input(
                    "adapter",
                    options=[folders.NONE, *adapters],
                    tooltip=(
                        "The first: a LoRA file, or the result of a run. A connected run takes its place."
                    ),
                ),
                io.Combo.Input(
                    "against",
                    options=[BASE, *adapters],
                    tooltip="The second: the base alone, or an adapter.",
                ),
                io.String.Input(
                    "prompts", default="", multiline=True, tooltip="Prompts, one a line."
                ),
                io.Combo.Input(
                    "prompts_file",
                    options=[folders.NONE, *folders.data_names()],
                    tooltip=(
                        "Prompts or edits from the input folder. With neither, a run's held-out prompts."
                    ),
                ),
                io.Int.Input(
                    "limit", default=64, min=1, max=100000, tooltip="At most so many prompts."
                ),
                io.Int.Input("seeds", default=1, min=1, max=64, tooltip="Pairs for each prompt."),
                RunSocket.Input(
                    "run",
                    optional=True,
                    tooltip="A training: its base, adapter and held-out prompts.",
                ),
                JudgeSocket.Input(
                    "judge",
                    optional=True,
                    tooltip="Who compares; without one, that of the run or preset.",
                ),
                RubricSocket.Input(
                    "rubric",
                    optional=True,
                    tooltip="The criteria; without one, those of the run or built in.",
                ),
                io.String.Input(
                    "base",
                    default="",
                    optional=True,
                    **advanced(),
                    tooltip=(
                        "Another base than the preset's: a Hugging Face id or a folder in models/diffusers."
                    ),
                ),
                io.Int.Input(
                    "first_seed",
                    default=0,
                    min=0,
                    max=2**62,
                    optional=True,
                    **advanced(),
                    tooltip="The first seed.",
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=1000,
                    optional=True,
                    **advanced(),
                    tooltip=("Sampling steps; 0 is as in training, else 30."),
                ),
            ],
            outputs=[
                io.Float.Output(
                    display_name="win_rate",
                    tooltip="Won pairs of decided pairs, 0 to 1; 0.5 if none is.",
                ),
                io.Float.Output(display_name="low", tooltip="Lower end of the 95 % interval."),
                io.Float.Output(display_name="high", tooltip="Upper end of the 95 % interval."),
                io.Image.Output(display_name="plot", tooltip="The picture that the node shows."),
                io.String.Output(display_name="summary", tooltip="The outcome as a sentence."),
                io.String.Output(
                    display_name="report",
                    tooltip="Path of the report, a page that shows the pairs.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, adapter: str, against: str, prompts_file: str) -> bool | str:
        """Files come and go between two refreshes of the page: what is named is looked for when the node runs."""
        return True

    @classmethod
    def fingerprint_inputs(
        cls, adapter: str | None, against: str | None, prompts_file: str | None, **_
    ) -> object:
        """Changes with the files, so that an adapter which was trained further is measured again."""
        return (
            folders.adapter_stamp(adapter),
            folders.adapter_stamp(against),
            folders.data_stamp(prompts_file),
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
        run=None,
        judge=None,
        rubric=None,
        base="",
        first_seed=0,
        steps=0,
    ) -> io.NodeOutput:
        live = Live(cls.hidden.unique_id)
        with explained(live):
            output = folders.new_folder("win rates")
            words = [
                *_source(run, preset, base),
                *_adapters(run, adapter, against),
                *_prompts(output, run, preset, prompts, prompts_file),
                f"--limit={limit}",
                f"--count={seeds}",
                f"--seed={first_seed}",
                f"--device={device()}",
                f"--output={output}",
            ]
            if steps:
                words.append(f"--steps={steps}")
            if judge is not None:
                words += [
                    f"--judge={judge.profile}",
                    "--both-orders" if judge.both_orders else "--no-both-orders",
                ]
            if rubric is not None:
                rubric.save(output / "rubric.json")
                words.append(f"--rubric={output / 'rubric.json'}")
            _follow(words, output, live)
        result = json.loads((output / "result.json").read_text(encoding="utf-8"))
        event = Run(output).history().validations[-1]
        picture = contest_picture(event, output, result["name"], result["against"])
        live.say(result["sentence"])
        rate = 0.5 if result["win_rate"] is None else result["win_rate"]
        return io.NodeOutput(
            rate,
            result["low"],
            result["high"],
            to_image(picture),
            result["sentence"],
            str(output / "report.html"),
            ui={**shown([picture], cls), "text": [result["sentence"]]},
        )


def _source(run: Run | None, preset: str, base: str) -> list[str]:
    if run is not None:
        return [str(run.folder)]
    return [folders.base_model(base.strip()) if base.strip() else preset]


def _adapters(run: Run | None, adapter: str, against: str) -> list[str]:
    if run is None and adapter == folders.NONE:
        raise ValueError(
            "adapter: expected an adapter to compare, came none; choose one, or connect a run"
        )
    words = [] if run is not None else [f"--adapter={folders.adapter_path(adapter)}"]
    return words + ([] if against == BASE else [f"--against={folders.adapter_path(against)}"])


def _prompts(
    output: Path, run: Run | None, preset: str, prompts: str, prompts_file: str
) -> list[str]:
    family = PRESETS[preset]["policy"]["family"]
    if run is not None:
        from ..arr_core.config import load_config

        family = load_config(str(run.folder / "config.yaml")).policy.family
    task = "edit" if family == "qwen-image-edit" else "t2i"
    texts = prompts_of([prompts])
    if texts and prompts_file != folders.NONE:
        raise ValueError(
            "prompts: expected prompts or a prompts_file, came both; clear the one that is not meant"
        )
    if texts:
        if task == "edit":
            raise ValueError(
                "prompts: expected a prompts_file of edits, each with its source image, came text"
            )
        path = write_prompts(output, texts)
    elif prompts_file != folders.NONE:
        path = folders.data_path(prompts_file, "prompts_file")
    elif run is not None:
        return []
    elif held_out := PRESETS[preset]["data"].get("validation"):
        return [f"--prompts={held_out}"]
    else:
        raise ValueError(
            "prompts: expected prompts, came none; type some, one a line, choose a prompts_file, or connect a run"
        )
    check_examples(path, task)
    return [f"--prompts={path}"]


def _follow(words: list[str], output: Path, live: Live) -> None:
    """Run the evaluation to its end. Raises the interruption, ValueError and RuntimeError."""
    from ..arr_core.training.events import ProgressEvent, read_events

    let_models_go()
    events = output / "events.jsonl"

    def watch(stopping: bool) -> None:
        progress = (
            [event for event in read_events(events) if isinstance(event, ProgressEvent)]
            if events.is_file()
            else []
        )
        if not progress:
            live.say(child.with_request("loading ..."))
            return
        last = progress[-1]
        stages = ("prompts", "second images", "first images", "verdicts")
        live.say(child.with_request(f"{last.stage}: {last.done} of {last.total}"))
        live.show(stages.index(last.stage) * last.total + last.done, len(stages) * last.total)

    with Child("evaluate", words, output) as child:
        cancelled = child.wait(watch)
    if cancelled:
        comfy.model_management.interrupt_current_processing(False)
        raise comfy.model_management.InterruptProcessingException()
    if child.process.returncode and child.out_of_memory:
        raise RuntimeError(
            "The evaluation ran out of memory. Close what else uses it, or train and compare at a smaller size "
            f"(policy.height, policy.width).\nLog: {child.log}"
        )
    if child.process.returncode:
        raise ValueError(child.fault())
