"""Files that appear whole or not at all, logs of JSON lines that survive a kill, and readers that no file can hold up."""

from __future__ import annotations

import errno
import io
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import ArrError

MAX_TEXT = 256 * 2**20  # bytes
NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # a pipe without a writer is opened at once


@contextmanager
def atomic_write(file: str | os.PathLike) -> Iterator[Path]:
    """A path beside ``file`` to write to. It replaces ``file`` when the block ends, and is removed when the block fails.

    The parent folder is made. The new file gets the permissions of an ordinary new file.
    """
    file = Path(file)
    if file.exists() and not file.is_file():  # as root, a device would be replaced for all
        raise OSError(
            errno.EINVAL, "expected a file to write, got a folder, pipe or device", str(file)
        )
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


def open_file(path: str | os.PathLike, most: int) -> io.BufferedReader:
    """A user's file, opened to read its bytes. Raises OSError for a pipe, a device or a socket, which could hold up the
    reader for ever, for more than ``most`` bytes, and for a name that is none.
    """
    try:
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | NONBLOCK))
    except ValueError:  # NUL, or a lone surrogate
        raise OSError(errno.EINVAL, "a name that no file can have", str(path)) from None
    found = os.fstat(file.fileno())
    if stat.S_ISREG(found.st_mode) and found.st_size <= most:
        return file
    file.close()
    if stat.S_ISREG(found.st_mode):
        raise OSError(errno.EFBIG, f"{found.st_size:,} bytes, more than {most:,}", str(path))
    raise OSError(errno.EINVAL, "a pipe or device, which is no file", str(path))


def read_text(
    file: str | os.PathLike, expected: str, error_class: type[ArrError], most: int = MAX_TEXT
) -> str:
    """The text of a file in UTF-8. Raises ``error_class``, which says what was expected, if it cannot be read."""
    try:
        with open_file(file, most) as opened:
            return opened.read().decode("utf-8-sig")
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


def check_links(folder: Path, error_class: type[ArrError]) -> None:
    """Raises ``error_class`` where a link in ``folder`` leads out of it, since what is written there would lie elsewhere."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise error_class(
                f"{path}: expected a file or folder of its own, got a link that leads out of {folder}; remove the link"
            )


class JsonLines:
    """An append-only file of JSON objects, one a line. A line is one system call, so a kill loses at most that line.

    A torn last line of an earlier process is closed first, so that it spoils no other. What a full disk does not take is
    kept, and written before the next line.
    """

    def __init__(self, path: str | os.PathLike):
        self._file, self._unwritten = open(path, "a+b", buffering=0), b""
        if self._file.seek(0, os.SEEK_END):
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":
                self._file.write(b"\n")

    def append(self, value: dict[str, Any]) -> None:
        """Write one object. Raises ValueError for numbers that are not finite, and OSError where it is only kept."""
        line = json.dumps(value, ensure_ascii=False, allow_nan=False)
        self._unwritten += line.encode("utf-8", "backslashreplace") + b"\n"
        self._write()

    def close(self) -> None:
        with suppress(OSError):
            self._write()
        self._file.close()

    def _write(self) -> None:
        while self._unwritten:
            self._unwritten = self._unwritten[self._file.write(self._unwritten) :]


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
