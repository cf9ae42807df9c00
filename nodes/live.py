"""What a node shows while it works (text, a picture, a progress bar), how it fails, and how it is cancelled."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import comfy.model_management
import comfy.utils
from comfy_api.latest import io

from ..arr_core.common.errors import ArrError

Result = TypeVar("Result")

POLL_S = 0.1
LARGEST = 960  # pixels of a picture on a node: as wide as our plots, which are not resized then
INTERRUPTED = comfy.model_management.InterruptProcessingException


class Live:
    """A node's text, picture and progress bar. As a context manager it makes errors readable and shows them too."""

    def __init__(self, node: type[io.ComfyNode]):
        node_id = node.hidden.unique_id
        self.node_id = node_id[0] if isinstance(node_id, list) else node_id
        self.bar = comfy.utils.ProgressBar(1, node_id=self.node_id)

    def __enter__(self) -> Live:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        readable = _readable(error)
        if readable is not None:
            self.show_text(f"error: {readable}")
            if readable is not error:
                raise readable from error

    def show_text(self, text: str) -> None:
        """Show text below the node's widgets, with HTML escaped.

        The page of 0.3.75 takes it for HTML, and it holds the words of judges, prompts and strangers' workflows. Newer
        pages show entities as they are written, so "<" is replaced by a similar letter.
        """
        from server import PromptServer

        PromptServer.instance.send_progress_text(text.replace("<", "‹"), self.node_id)

    def show_progress(self, done: int, total: int | None, picture=None) -> None:
        """Move the bar, and show a PIL picture. Raises the interruption if the user pressed Cancel."""
        preview = picture and ("JPEG", picture, LARGEST)
        self.bar.update_absolute(done, total or 1, preview)


def _readable(error: BaseException | None) -> Exception | None:
    """The error for people to read: ours in one line, a missing package as the command that installs it. None: not ours."""
    if isinstance(error, ArrError):
        # ComfyUI shows an error's type with its module's name, which for a pack is a path of this machine.
        return ValueError(str(error))
    if isinstance(error, ModuleNotFoundError) and error.name:
        requirements = Path(__file__).resolve().parents[1] / "requirements.txt"
        return RuntimeError(
            f"The package {error.name.partition('.')[0]!r} is missing in ComfyUI's Python. Install what ARR-RPO needs "
            f'and start ComfyUI again:\n"{sys.executable}" -m pip install -r "{requirements}"'
        )
    return error if isinstance(error, (ValueError, RuntimeError)) else None


def wait(future: Future[Result], report: Callable[[], Any] = lambda: None) -> Result:
    """The future's result. Calls ``report`` meanwhile. Raises the interruption when the user presses Cancel."""
    try:
        while not future.done():
            comfy.model_management.throw_exception_if_processing_interrupted()
            report()
            time.sleep(POLL_S)
        return future.result()
    finally:
        future.cancel()
