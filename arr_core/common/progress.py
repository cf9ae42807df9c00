"""The one progress callback: whoever works calls ``report_progress(stage, done, total)``."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from importlib import import_module

from tqdm import tqdm

ReportProgress = Callable[[str, int, int], object]


def no_progress(stage: str, done: int, total: int) -> None:
    """The callback of a caller who does not want to know."""


def hide_loading_bars(*libraries: str) -> None:
    """Switch off the bars that ``diffusers`` and ``transformers`` show while they load: small models are there in a moment."""
    for library in libraries:
        import_module(library).utils.logging.disable_progress_bar()


class ProgressBars:
    """A callback that draws one bar a stage; where there is no terminal, one line a stage. Use as a context manager.

    ``notes`` are counts shown beside the bar, such as how many pairs failed. They begin anew with each stage.
    """

    def __init__(self, unit: str):
        self.unit, self.notes = unit, Counter[str]()
        self._stage, self._bar = "", None

    def __enter__(self) -> ProgressBars:
        return self

    def __exit__(self, *_) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self._bar is None or stage != self._stage:
            self.__exit__()
            self._stage = stage
            self.notes.clear()
            # ``disable=None`` draws nothing where there is no terminal.
            self._bar = tqdm(
                total=total, desc=stage, unit=self.unit, dynamic_ncols=True, disable=None
            )
            if self._bar.disable:
                print(f"{stage}: {total} to do", file=sys.stderr, flush=True)
        self._bar.set_postfix(self.notes, refresh=False)
        self._bar.update(done - self._bar.n)
