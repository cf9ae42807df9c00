"""A command of arr_core that runs beside ComfyUI, followed on the node: its events, Cancel, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import comfy.model_management

from .child import HUMAN_JUDGE, Child, free_models
from .live import INTERRUPTED, Live
from .run import Run

if TYPE_CHECKING:
    from ..arr_core.training.events import History, ProgressEvent

REPEAT_S = 2.0  # a page that was reloaded has missed what was shown before
STOPPING = "finishing this step, then saving; Cancel again ends it at once"


def follow(
    command: str,
    arguments: Sequence[str],
    run: Run,
    live: Live,
    show: Callable[[History], str],
    memory_advice: str,
) -> None:
    """Run ``python -m arr_core.COMMAND`` to its end in the run's folder.

    ``show(history)`` is the text for the node; it is called at every new event and every few seconds, and may show
    progress. ``memory_advice`` is what to do when memory ran out. Raises the interruption, ValueError and RuntimeError.
    """
    free_models()
    begun = shown_at = time.monotonic()
    size_before, seen = _size(run), None
    human_judge = None  # its page, once the child has printed it

    def watch(stopping: bool) -> None:
        nonlocal seen, shown_at, human_judge
        state, now = (_size(run), stopping), time.monotonic()
        if state == seen and now < shown_at + REPEAT_S:
            return
        seen, shown_at = state, now
        if stopping:
            text = STOPPING
        elif state[0] == size_before:
            text = f"loading ... {now - begun:.0f} s"
        else:
            text = show(run.history())
        human_judge = human_judge or HUMAN_JUDGE.search(child.output)
        live.show_text(f"{text} · {human_judge[0]}" if human_judge else text)

    child = Child(command, arguments, run.folder)
    cancelled = child.wait(watch)
    if cancelled:
        comfy.model_management.interrupt_current_processing(False)
        raise INTERRUPTED()
    if child.process.returncode == 3:
        raise RuntimeError(
            "The process was asked to stop from outside; it has saved. Run goes on from there."
        )
    if child.out_of_memory:
        raise RuntimeError(f"The process ran out of memory. {memory_advice}\nLog: {child.log}")
    if child.process.returncode:
        raise ValueError(child.error())


def describe(progress: ProgressEvent) -> str:
    """How far something is that takes more than a moment."""
    return f"{progress.stage} {progress.done} of {progress.total}"


def _size(run: Run) -> int:
    return run.events.stat().st_size if run.events.is_file() else 0
