"""A command of arr_core in a process of its own: its own interpreter, its own memory, and an end when the server ends.

ComfyUI's thread runs under inference mode, cannot be interrupted in the middle of an update and keeps what it loads; so a
training runs beside it. The child's standard input is a pipe whose other end is here: closing it asks for a stop.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import comfy.model_management

from ..arr_core.common.children import START, UNTIL_EOF
from ..arr_core.common.lock import TRAINER, locked
from ..arr_core.common.paths import IMAGE_FOLDERS
from . import folders
from .live import INTERRUPTED, POLL_S

ROOT = Path(__file__).resolve().parents[1]
GRACE_S = 900.0  # for the update that goes on; a second Cancel ends it at once
# What a human judge prints.
HUMAN_JUDGE = re.compile(r"^you are the judge: open \S+", re.MULTILINE)
OUT_OF_MEMORY = re.compile(
    r"OutOfMemoryError|out of memory|can't allocate memory|CUBLAS_STATUS_ALLOC_FAILED|MemoryError"
)
# Ctrl-C in the server's terminal must not reach the child twice.
OWN_GROUP: dict[str, Any] = (
    {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    if sys.platform == "win32"
    else {"start_new_session": True}
)


def free_models() -> None:
    """Free the memory that ComfyUI's models hold, for what is loaded beside them."""
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()


class Child:
    """A running command and its log."""

    def __init__(self, command: str, arguments: Sequence[str], folder: Path):
        """Start ``python -m arr_core.COMMAND`` with its output in the folder's ``trainer.log``.

        The interpreter is ComfyUI's own, or what the user's environment names; never what a workflow says.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "trainer.log"
        python = os.environ.get("ARR_PYTHON") or sys.executable
        images = [os.environ.get(IMAGE_FOLDERS, ""), *map(str, folders.of_images())]
        with self.log.open("ab") as log:
            self.log_start = log.tell()
            self.process = subprocess.Popen(
                [python, "-c", START, str(ROOT), f"arr_core.{command}", UNTIL_EOF, *arguments],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, IMAGE_FOLDERS: os.pathsep.join(filter(None, images))},
                **OWN_GROUP,
            )

    def wait(self, watch: Callable[[bool], None]) -> bool:
        """Whether the user cancelled, once the child has ended. ``watch(stopping)`` is called a few times a second.

        The first Cancel, or any error of ``watch``, asks the child to finish its update and to save; a second Cancel
        kills it.
        """
        deadline = None
        try:
            while self.process.poll() is None:
                try:
                    comfy.model_management.throw_exception_if_processing_interrupted()
                    watch(deadline is not None)
                except INTERRUPTED:
                    self._ask_to_stop()
                    deadline = 0.0 if deadline is not None else time.monotonic() + GRACE_S
                if deadline is not None and time.monotonic() > deadline:
                    self.process.kill()
                time.sleep(POLL_S)
        finally:
            self._ask_to_stop()
            try:
                self.process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return deadline is not None

    def _ask_to_stop(self) -> None:
        if self.process.stdin:
            self.process.stdin.close()

    @property
    def output(self) -> str:
        """What this child has written, at most its last 64 KiB."""
        with self.log.open("rb") as file:
            file.seek(max(self.log_start, self.log.stat().st_size - 65536))
            return file.read().decode("utf-8", "replace")

    @property
    def out_of_memory(self) -> bool:
        """Whether it ended for want of memory: it says so, or the system killed it."""
        status = self.process.returncode
        return status in (-9, 137) or (status != 0 and bool(OUT_OF_MEMORY.search(self.output)))

    def error(self) -> str:
        """Why it ended, in one line where the child gave one, else the end of its output."""
        lines = [line for line in self.output.splitlines() if line.strip()]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        if self.process.returncode == 2 and errors:
            return errors[-1]
        head = f"the process ended with status {self.process.returncode}; the end of {self.log}:"
        return "\n".join([head, *lines[-12:]])


def still_running(folder: Path) -> bool:
    """Whether a trainer, such as the child of a server that ended before it, still works in this folder."""
    lock = folder / TRAINER
    if not lock.exists():
        return False
    with locked(lock) as holder:
        return bool(holder)
