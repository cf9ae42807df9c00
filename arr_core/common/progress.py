"""The one progress callback: whoever works calls ``report_progress(stage, done, total)``."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

ReportProgress = Callable[[str, int, int], object]


def no_progress(stage: str, done: int, total: int) -> None:
    """The callback of a caller who does not want to know."""


def hide_loading_bars(*libraries: str) -> None:
    """Switch off the bars that ``diffusers`` and ``transformers`` show while they load: small models are there in a moment."""
    for library in libraries:
        import_module(library).utils.logging.disable_progress_bar()
