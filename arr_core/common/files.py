"""Files that appear whole or not at all, and logs of JSON lines that survive a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import ArrError


@contextmanager
def atomic_write(file: str | os.PathLike) -> Iterator[Path]:
    """A path beside ``file`` to write to. It replaces ``file`` when the block ends, and is removed when the block fails.

    The parent folder is made. The new file gets the permissions of an ordinary new file.
    """
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        part.touch()
        mode = part.stat().st_mode
        yield part
        part.chmod(mode)  # safetensors makes its files readable for their owner alone
        sync(part)
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def read_text(file: Path, expected: str, error_class: type[ArrError]) -> str:
    """The text of a file in UTF-8. Raises ``error_class``, which says what was expected, if it cannot be read."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        got = f"bytes at offset {error.start} that are not UTF-8"
    except OSError as error:
        got = (error.strerror or str(error)).lower()
    raise error_class(f"{file}: expected {expected}, got {got}")


def write_text(file: str | os.PathLike, text: str) -> None:
    """Write ``text`` in UTF-8, atomically. A lone surrogate is written as its escape."""
    with atomic_write(file) as part:
        part.write_bytes(text.encode("utf-8", "backslashreplace"))


def write_json(file: str | os.PathLike, value: Any, *, sort_keys: bool = False) -> None:
    """Write ``value`` as indented JSON, atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False, sort_keys=sort_keys)
    write_text(file, text + "\n")


class JsonLines:
    """An append-only file of JSON objects, one a line. A line is one system call, so a kill loses at most that line.

    A torn last line of an earlier process is closed first, so that it spoils no other.
    """

    def __init__(self, path: str | os.PathLike):
        self._file = open(path, "a+b", buffering=0)
        if self._file.seek(0, os.SEEK_END):
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":
                self._file.write(b"\n")

    def append(self, value: dict[str, Any]) -> None:
        """Write one object. Raises ValueError for numbers that are not finite."""
        line = json.dumps(value, ensure_ascii=False, allow_nan=False)
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        while data:
            data = data[self._file.write(data) :]

    def close(self) -> None:
        self._file.close()


def read_json_lines(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines. Lines that are no whole JSON object are skipped."""
    values = []
    for line in Path(path).read_bytes().split(b"\n"):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):  # torn: neither the JSON nor the UTF-8 need be whole
            continue
        if isinstance(value, dict):
            values.append(value)
    return values


def sync(path: Path) -> None:
    """Ask the system to put a file or folder on the disk."""
    if path.is_dir() and os.name == "nt":
        return
    # Windows syncs only what may be written.
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
