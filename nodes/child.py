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

import comfy.model_management

from ..arr_core.common.children import START, UNTIL_EOF
from .live import POLL_S

ROOT = Path(__file__).resolve().parents[1]
PID = "trainer.pid"
GRACE_S = 900.0  # for the update that goes on; a second Cancel ends it at once
TO_A_PERSON = re.compile(r"^you are the judge: open \S+", re.MULTILINE)  # what a human judge prints
OUT_OF_MEMORY = re.compile(
    r"OutOfMemoryError|out of memory|can't allocate memory|CUBLAS_STATUS_ALLOC_FAILED|MemoryError"
)


def python() -> str:
    """The interpreter of children: ComfyUI's own, or what the user's environment names; never what a workflow says."""
    return os.environ.get("ARR_PYTHON") or sys.executable


def let_models_go() -> None:
    """Free the memory that ComfyUI's models hold, for what is loaded beside them."""
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()


class Child:
    """A running command and its log. A context manager: on leaving, the child has ended."""

    def __init__(self, module: str, arguments: Sequence[str], folder: Path):
        """Start ``python -m arr_core.MODULE`` with its output in the folder's ``trainer.log``."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.log = folder, folder / "trainer.log"
        self.start = self.log.stat().st_size if self.log.exists() else 0
        self._request = ""
        # Ctrl-C in the server's terminal must not reach the child twice.
        own_group = (
            {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
            if os.name == "nt"
            else {"start_new_session": True}
        )
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [python(), "-c", START, str(ROOT), f"arr_core.{module}", UNTIL_EOF, *arguments],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                **own_group,
            )
        (folder / PID).write_text(str(self.process.pid))

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_) -> None:
        self.ask_to_stop()
        try:
            self.process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        (self.folder / PID).unlink(missing_ok=True)

    def ask_to_stop(self) -> None:
        """Let the child finish its update, save, and end."""
        if not self.process.stdin.closed:
            self.process.stdin.close()

    def wait(self, watch: Callable[[bool], None]) -> bool:
        """Whether the user cancelled, once the child has ended. ``watch(stopping)`` is called a few times a second.

        The first Cancel asks the child to stop, a second one kills it.
        """
        cancelled, asked_at = False, 0.0
        while self.process.poll() is None:
            try:
                comfy.model_management.throw_exception_if_processing_interrupted()
                watch(cancelled)
            except comfy.model_management.InterruptProcessingException:
                if cancelled:
                    self.process.kill()
                cancelled, asked_at = True, asked_at or time.monotonic()
                self.ask_to_stop()
            if cancelled and time.monotonic() > asked_at + GRACE_S:
                self.process.kill()
            time.sleep(POLL_S)
        return cancelled

    @property
    def said(self) -> str:
        """What this child has written, at most its last 64 KiB."""
        with self.log.open("rb") as file:
            file.seek(max(self.start, self.log.stat().st_size - 65536))
            return file.read().decode("utf-8", "replace")

    def with_request(self, words: str) -> str:
        """``words``, and where a person is to judge if this child asks one."""
        self._request = self._request or " · ".join(dict.fromkeys(TO_A_PERSON.findall(self.said)))
        return f"{words} · {self._request}" if self._request else words

    @property
    def out_of_memory(self) -> bool:
        """Whether it ended for want of memory: it says so, or the system killed it."""
        return self.process.returncode in (-9, 137) or OUT_OF_MEMORY.search(self.said) is not None

    def fault(self) -> str:
        """Why it ended, in a line where the child gave one, else the end of what it wrote."""
        lines = [line for line in self.said.splitlines() if line.strip()]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        if self.process.returncode == 2 and errors:
            return errors[-1]
        return (
            f"the process ended with status {self.process.returncode}; the end of {self.log}:\n"
            + "\n".join(lines[-12:])
        )


def still_running(folder: Path) -> bool:
    """Whether a child of an earlier server, which ended before it, is still finishing its update in this folder."""
    import psutil

    try:
        process = psutil.Process(int((folder / PID).read_text()))
        return process.is_running() and "arr_core" in " ".join(process.cmdline())
    except (OSError, ValueError, psutil.Error):
        return False
