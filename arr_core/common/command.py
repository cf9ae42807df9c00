"""How every command ends: its work's status, one line for what cannot be done, or a word when it was interrupted."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TextIO

from .errors import ArrError


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line and status 2, as every other fault of the input."""

    def parse_known_args(self, args=None, namespace=None):
        if bad := next((word for word in args or () if not _is_sayable(word)), ""):
            self.error(f"expected text that this system can write and without NUL, got {bad!a:.80}")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        message = message if len(message) <= 500 else f"{message[:250]} ... {message[-250:]}"
        self.exit(2, f"error: {' '.join(message.split())}; see --help\n")


def _is_sayable(word: str) -> bool:
    try:
        return b"\0" not in os.fsencode(word)
    except UnicodeEncodeError:
        return False


def number_from(least: float, kind: type = int, most: float = 2**31):
    """A reader of numbers from ``least`` to ``most`` for argparse."""

    def number(text: str):
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(
                f"expected a number from {least:g} to {most:g}, got {text}"
            )
        return value

    number.__name__ = "whole number" if kind is int else "number"
    return number


def new_folder(parent: str) -> Path:
    """The first of ``parent/001``, ``parent/002``, ... that is not there."""
    number = 1
    while (folder := Path(parent) / f"{number:03d}").exists():
        number += 1
    return folder


class _Tolerant(io.FileIO):
    """A standard stream. What a closed pipe, a lost terminal or a full disk does not take is dropped."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return len(data)


def _tolerant(stream: TextIO | None) -> TextIO | None:
    """The stream, such that nothing that is written to it ends the work, nor a name that the console cannot write."""
    if stream is None:  # closed before the start
        return open(os.devnull, "w", encoding="utf-8")
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
        if type(getattr(stream.buffer, "raw", None)) is io.FileIO:  # not a console of Windows
            raw = _Tolerant(stream.fileno(), "w", closefd=False)
            return io.TextIOWrapper(
                io.BufferedWriter(raw),
                stream.encoding,
                "backslashreplace",
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
    return stream


def run(work: Callable[[], int], *, stopped: str, status: int = 130) -> int:
    """The exit status of ``work``; 2 where it refuses, with one line on stderr; ``status`` on Ctrl-C, after ``stopped``."""
    sys.stdout, sys.stderr = _tolerant(sys.stdout), _tolerant(sys.stderr)
    try:
        return work()
    except (ArrError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{stopped}", file=sys.stderr)
        return status
