"""The one progress callback: whoever works calls ``report_progress(stage, done, total)``."""

from __future__ import annotations

from collections.abc import Callable

ReportProgress = Callable[[str, int, int], object]


def no_progress(stage: str, done: int, total: int) -> None:
    """The callback of a caller who does not want to know."""
