"""ARRTrainRPO: a training in a process of its own, watched on the node, stopped by Cancel, continued by Run."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from pathlib import Path

import comfy.model_management
from comfy_api.latest import io

from ..arr_core.config.presets import PRESETS
from . import folders
from .child import Child, let_models_go, still_running
from .live import Live
from .load_adapter import lora_model
from .pictures import shown, to_pictures
from .plot import training_picture
from .run import Run, check_examples, device, prompts_of, settings_words, write_edits, write_prompts
from .schema import (
    JudgeSocket,
    LoraModel,
    LossMap,
    RubricSocket,
    RunSocket,
    advanced,
    explained,
    schema,
)

AGAIN_S = 2.0  # between two messages of the same content: a page that was reloaded has heard none
MOST_HELD_OUT = 64
_finished: dict[str, Path] = {}  # the folders of runs that were finished here, by name
_deleted: Counter[str] = Counter()  # how often one of them was found deleted


class ARRTrainRPO(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ARRTrainRPO",
            "Train Adapter (RPO)",
            is_output_node=True,
            is_input_list=True,
            description=(
                "Trains a LoRA adapter with what a judge prefers under a rubric. It runs beside ComfyUI: Cancel finishes the "
                "update and saves; Run goes on with the same run."
            ),
            search_aliases=[
                "rpo",
                "lora training",
                "reinforcement learning",
                "preference",
                "fine-tune",
                "arr",
            ],
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=["miniature", *(name for name in PRESETS if name != "miniature")],
                    tooltip=(
                        "'miniature' and 'miniature-edit' learn on a CPU in minutes with nothing to download; 'flux' and "
                        "'qwen-image-edit' are the published settings; 'recommended' and 'recommended-edit' are the same bases "
                        "with what bears a judge's errors best."
                    ),
                ),
                io.String.Input(
                    "run_name",
                    default="my run",
                    tooltip=(
                        "The run's folder in output/ARR-RPO/runs. An existing run of this name is continued."
                    ),
                ),
                io.Int.Input(
                    "updates",
                    default=100,
                    min=1,
                    max=100000,
                    tooltip=("Updates in all. Raise it to train a finished run further."),
                ),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    tooltip=(
                        "Prompts, one a line (or a list of texts); with images, their edit instructions."
                    ),
                ),
                io.Combo.Input(
                    "prompts_file",
                    options=[folders.NONE, *folders.data_names()],
                    tooltip=(
                        "Prompts or edits from a file of the input folder: .txt with one a line, .jsonl or .json."
                    ),
                ),
                JudgeSocket.Input(
                    "judge", optional=True, tooltip="Who compares; without one, the preset's judge."
                ),
                RubricSocket.Input(
                    "rubric", optional=True, tooltip="The criteria; without one, the built-in ones."
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="For edits: the images to edit, a batch or a list.",
                ),
                io.Combo.Input(
                    "start_adapter",
                    options=[folders.NONE, *folders.adapter_names()],
                    optional=True,
                    tooltip=("An adapter to train further, in place of a new one."),
                ),
                io.String.Input(
                    "base",
                    default="",
                    optional=True,
                    tooltip=(
                        "Another base than the preset's: a Hugging Face id (owner/name) or a diffusers folder in "
                        "models/diffusers."
                    ),
                ),
                io.Int.Input(
                    "run_seed",
                    default=0,
                    min=0,
                    max=2**32 - 1,
                    optional=True,
                    tooltip=("Seed of prompts, noise and validation; a run keeps its own."),
                ),
                io.String.Input(
                    "settings",
                    default="",
                    multiline=True,
                    optional=True,
                    **advanced(),
                    tooltip=(
                        "Further settings, one a line: rollout.micro_batch = 2. All of them: python -m arr_core.train --help."
                    ),
                ),
            ],
            outputs=[
                LoraModel.Output(
                    display_name="lora",
                    tooltip="The adapter at full strength, for SaveLoRA or Load LoRA Model.",
                ),
                LossMap.Output(
                    display_name="loss",
                    tooltip=(
                        "The loss of each update, for Plot Loss Graph. Nothing when all are equal, which that node cannot draw."
                    ),
                ),
                io.Int.Output(display_name="steps", tooltip="Updates that were made."),
                RunSocket.Output(
                    display_name="run", tooltip="The run, for Load Adapter and Win Rate."
                ),
                io.String.Output(
                    display_name="summary",
                    tooltip="The gain on held-out prompts, and where the files are.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls, prompts_file: list[str], start_adapter: list[str] | None = None
    ) -> bool | str:
        """Files come and go between two refreshes of the page: what is named is looked for when the node runs."""
        return True

    @classmethod
    def fingerprint_inputs(cls, run_name, prompts_file, start_adapter=None, **_) -> object:
        """Changes with the files, and when a run that was finished here has been deleted since, to be trained anew."""
        name = _one(run_name) or ""
        if name in _finished and not _finished[name].exists():
            del _finished[name]
            _deleted[name] += 1
        return (
            _deleted[name],
            folders.data_stamp(_one(prompts_file)),
            folders.adapter_stamp(_one(start_adapter)),
        )

    @classmethod
    def execute(
        cls,
        preset,
        run_name,
        updates,
        prompts,
        prompts_file,
        judge=None,
        rubric=None,
        images=None,
        start_adapter=None,
        base=None,
        run_seed=None,
        settings=None,
    ) -> io.NodeOutput:
        from comfy_execution.graph import ExecutionBlocker

        live = Live(
            cls.hidden.unique_id[0]
            if isinstance(cls.hidden.unique_id, list)
            else cls.hidden.unique_id
        )
        with explained(live):
            run = Run(folders.run_folder(run_name[0].strip()))
            _wait_for_earlier(run, live)
            words = _words(
                run,
                preset=preset[0],
                prompts=prompts,
                prompts_file=prompts_file[0],
                judge=_one(judge),
                rubric=_one(rubric),
                images=images,
                start=_one(start_adapter),
                base=_one(base) or "",
                seed=_one(run_seed) or 0,
                settings=_one(settings) or "",
            )
            train(run, updates[0], words, live)
            adapter = _load(run)
        _finished[run_name[0]] = run.folder
        history = run.history()
        losses = [event.loss for event in history.updates if event.loss is not None]
        # Plot Loss Graph divides by the range of the losses.
        loss_map = {"loss": losses} if len(set(losses)) > 1 else ExecutionBlocker(None)
        sentence = history.finished.sentence
        if history.update > updates[0]:
            sentence = f"The run has {history.update} updates already, more than the {updates[0]} asked for. {sentence}"
        summary = f"{sentence}\nLoRA: {_publish(run)}\nReport: {run.folder / 'report.html'}"
        live.say(sentence)
        return io.NodeOutput(
            lora_model(adapter),
            loss_map,
            history.update,
            run,
            summary,
            ui={**shown([training_picture(history, run.folder)], cls), "text": [summary]},
        )


def train(run: Run, updates: int, words: list[str], live: Live) -> None:
    """Start the run or go on with it, and follow it to its end. Raises the interruption, ValueError and RuntimeError."""
    words = [*words, f"--run.updates={updates}"]
    if run.resumable:
        words += ["--resume", str(run.folder)]
        if _is_done(run, words):
            return
    else:
        run.forget()
    let_models_go()
    watcher = _Watcher(run, live)
    with Child("train", words, run.folder) as child:
        cancelled = child.wait(lambda stopping: watcher(stopping, child))
    status = child.process.returncode
    if cancelled:
        live.say(f"stopped at update {run.history().update}; Run goes on from there")
        comfy.model_management.interrupt_current_processing(False)
        raise comfy.model_management.InterruptProcessingException()
    if status == 3:
        raise RuntimeError(
            "The training was asked to stop from outside; it has saved. Run goes on from there."
        )
    if status and child.out_of_memory:
        raise RuntimeError(_memory_text(run))
    if status:
        raise ValueError(child.fault())


def _is_done(run: Run, words: list[str]) -> bool:
    """Whether the run has finished just what is asked for."""
    from ..arr_core.config import changed_fields, load_config
    from ..arr_core.train import parse

    config, history = parse(words)[0], run.history()
    return (
        history.finished is not None
        and history.update >= config.run.updates
        and not changed_fields(load_config(str(run.folder / "config.yaml")), config)
    )


class _Watcher:
    """Tells the node what the run's events say: at every new one, and again now and then."""

    def __init__(self, run: Run, live: Live):
        self.run, self.live = run, live
        self.before = _size(run.folder / "events.jsonl")  # of earlier processes
        self.seen, self.told, self.picture, self.drawn = -1, 0.0, None, None
        self.begun = time.monotonic()

    def __call__(self, stopping: bool, child: Child) -> None:
        size = _size(self.run.folder / "events.jsonl")
        if size == self.seen and time.monotonic() < self.told + AGAIN_S:
            return
        self.seen, self.told = size, time.monotonic()
        history = self.run.history()
        if self.drawn != (content := (len(history.validations), history.total)):
            self.drawn = content
            self.picture = training_picture(history, self.run.folder)
        words = self._text(history, size > self.before, stopping)
        self.live.say(child.with_request(words))
        self.live.show(history.update, history.total or 1, self.picture)

    def _text(self, history, begun: bool, stopping: bool) -> str:
        if stopping:
            return (
                f"finishing update {history.update + 1}, then saving; Cancel again ends it at once"
            )
        if not begun:
            return f"loading ... {time.monotonic() - self.begun:.0f} s"
        doing = (
            [f"{history.progress.stage} {history.progress.done} of {history.progress.total}"]
            if history.progress
            else []
        )
        if not history.updates:
            return " · ".join(
                ["first update" if history.encoded else "encoding prompts", *(doing or ["..."])]
            )
        last = history.updates[-1]
        recent = history.updates[-20:]
        undecided = sum(event.undecided for event in recent) / max(
            1, sum(event.pairs for event in recent)
        )
        pace = sum(event.seconds for event in recent) / len(recent)
        left = pace * max(0, (history.total or 0) - history.update)
        words = [
            f"update {history.update} of {history.total}",
            f"undecided {undecided:.0%}",
            f"{pace:.1f} s an update",
            f"{left / 60:.0f} min left" if left > 90 else f"{left:.0f} s left",
        ]
        if history.validations and history.validations[-1].win_rate is not None:
            score = history.validations[-1]
            words.insert(1, f"win rate {score.win_rate:.0%} ({score.low:.0%} to {score.high:.0%})")
        if history.update == history.total:
            words = [f"{last.update} updates done", "measuring ..."]
        return " · ".join([*words, *doing])


def _words(
    run: Run,
    *,
    preset: str,
    prompts: list[str],
    prompts_file: str,
    judge,
    rubric,
    images,
    start,
    base: str,
    seed: int,
    settings: str,
) -> list[str]:
    """The words after ``python -m arr_core.train``, without updates and resume. Writes what was given as text."""
    task = "edit" if PRESETS[preset]["policy"]["family"] == "qwen-image-edit" else "t2i"
    chosen = settings_words(settings)
    words = [
        preset,
        f"--run.output_dir={run.folder.parent}",
        f"--run.name={run.folder.name}",
        f"--run.seed={seed}",
        f"--policy.device={device()}",
        *chosen,
    ]
    data = _data(run, task, prompts, prompts_file, images)
    if data is None and not PRESETS[preset]["data"].get("train"):
        raise ValueError(
            f"prompts: expected prompts for the preset {preset}, came nothing; type some, one a line, or choose "
            "a prompts_file"
        )
    if data is not None:
        count = check_examples(data, task)
        if count < 2:
            what = "edits" if task == "edit" else "prompts"
            raise ValueError(
                f"prompts: expected at least two {what}, as one is held out for the win rate, came {count}"
            )
        words += [f"--data.train={data}", "--data.validation=null"]
        if not any(word.startswith("--data.validation_count=") for word in chosen):
            words.append(f"--data.validation_count={min(MOST_HELD_OUT, max(1, count // 5))}")
    if base.strip():
        words.append(f"--policy.base={folders.base_model(base.strip())}")
    if judge is not None:
        words += [f"--judge.profile={judge.profile}", f"--judge.both_orders={judge.both_orders}"]
    if rubric is not None:
        run.folder.mkdir(parents=True, exist_ok=True)
        path = run.folder / f"rubric-{rubric.content_hash}.json"
        rubric.save(path)
        words.append(f"--judge.rubric={path}")
    if start and start != folders.NONE:
        words.append(f"--adapter.start={folders.adapter_path(start)}")
    return words


def _data(run: Run, task: str, prompts: list[str], prompts_file: str, images) -> Path | None:
    texts = prompts_of(prompts)
    if prompts_file != folders.NONE and (texts or images is not None):
        given = "images" if images is not None else "prompts"
        raise ValueError(
            f"prompts_file: expected it or {given}, came both; clear the one that is not meant"
        )
    if images is not None:
        if task != "edit":
            raise ValueError(
                "images: expected a preset that edits images, such as qwen-image-edit; this one makes them from "
                "text"
            )
        if not texts:
            raise ValueError("prompts: expected an edit instruction for the images, came nothing")
        return write_edits(
            run.folder, texts, [picture for batch in images for picture in to_pictures(batch)]
        )
    if texts:
        if task == "edit":
            raise ValueError(
                "images: expected the images that the instructions are about, came none; connect them, or choose "
                "a prompts_file of edits"
            )
        return write_prompts(run.folder, texts)
    return None if prompts_file == folders.NONE else folders.data_path(prompts_file, "prompts_file")


def _wait_for_earlier(run: Run, live: Live) -> None:
    while still_running(run.folder):
        live.say("an earlier process of this run is finishing its update ...")
        comfy.model_management.throw_exception_if_processing_interrupted()
        time.sleep(0.5)


def _load(run: Run):
    from ..arr_core.adapters import load_adapter

    return load_adapter(run.folder / f"{run.folder.name}.safetensors")


def _publish(run: Run) -> Path:
    """The run's file, copied to where ComfyUI looks for LoRAs."""
    target = folders.output_loras() / f"{run.folder.name}.safetensors"
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    shutil.copyfile(run.folder / f"{run.folder.name}.safetensors", part)
    part.replace(target)
    return target


def _memory_text(run: Run) -> str:
    """What to change when memory ran out, with the values that it ran out with."""
    from ..arr_core.config import load_config

    lines = [
        "The training ran out of memory. In 'settings', change one of these (and give the run another name, since a run "
        "keeps its settings):"
    ]
    if (run.folder / "config.yaml").is_file():
        config = load_config(str(run.folder / "config.yaml"))
        lines += [
            f"  rollout.micro_batch = {max(1, config.rollout.micro_batch // 2)}    (now {config.rollout.micro_batch})",
            f"  policy.height = 384, policy.width = 384    (now {config.policy.height} x {config.policy.width})",
            f"  policy.gradient_checkpointing = true    (now {str(config.policy.gradient_checkpointing).lower()})",
            f"  policy.dtype = bfloat16    (now {config.policy.dtype})",
            f"  adapter.rank = {max(1, config.adapter.rank // 2)}    (now {config.adapter.rank})",
        ]
    return "\n".join([*lines, f"Log: {run.folder / 'trainer.log'}"])


def _one(values):
    """The single value of an input that may be left out, where all inputs are lists."""
    return values[0] if values else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
