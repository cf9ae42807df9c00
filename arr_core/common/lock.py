"""One process at a time: a file that the operating system locks, and unlocks when its holder ends, however it ends."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

TRAINER = "trainer.lock"  # of a run's folder
LOCKED_BYTE = 1 << 20  # Windows lets nobody read what is locked: a byte beyond the text


@contextmanager
def locked(file: Path) -> Iterator[str]:
    """A context that holds the lock of ``file``; gives "" then, else the name of the process that holds it.

    The file stays: a process could lock one that is removed while another makes a new one.
    """
    with file.open("a+", encoding="utf-8") as opened:
        if _lock(opened.fileno()):
            opened.truncate(0)
            opened.write(f"process {os.getpid()} on {platform.node()}")
            opened.flush()
            yield ""
        else:
            opened.seek(0)
            yield opened.read() or "another process"


def _lock(descriptor: int) -> bool:
    """Whether the lock was free. A file system that has no locks never refuses."""
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return not isinstance(error, BlockingIOError | PermissionError)
    return True
