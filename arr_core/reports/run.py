"""The report of a run: one self-contained page, made from what lies in the run's folder and nothing else."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from ..training.events import history, read_events
from .page import fill
from .run_curves import image_statistics, training_curves, win_rate_curve
from .run_gallery import before_and_after
from .run_headline import headline
from .run_tables import cost, measures, rubric, settings, warnings
from .words import text

__all__ = ["write_report"]


def write_report(run_dir: str | os.PathLike) -> Path:
    """The path of ``report.html`` in the run's folder, written anew, and put in place in one step.

    It is made from ``events.jsonl`` and, where they exist, ``config.yaml``, ``rubric.json`` and the pictures that the
    events name; a run may still be going. Nothing in them is trusted: all text is escaped, pictures are drawn anew and
    only from inside of the folder, and the page may load nothing and run nothing.
    """
    folder = Path(run_dir)
    run = history(read_events(folder / "events.jsonl"))
    sections = [
        headline(run),
        win_rate_curve(run),
        measures(run),
        before_and_after(run, folder),
        image_statistics(run),
        training_curves(run),
        rubric(_rubric(folder)),
        cost(run),
        warnings(run),
        settings(_read(folder / "config.yaml")),
    ]
    name = text((run.started and run.started.run) or folder.resolve().name)
    foot = (
        f"<footer>Made from events.jsonl as of {text(run.last_time) or 'no event at all'}.</footer>"
    )
    page = fill(f"{name} &middot; training report", "\n".join([*filter(None, sections), foot]))
    path = folder / "report.html"
    _replace(path, page.encode("utf-8", "replace"))
    return path


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _rubric(folder: Path) -> object:
    try:
        return json.loads(_read(folder / "rubric.json"))
    except (ValueError, RecursionError):
        return None


def _replace(path: Path, content: bytes) -> None:
    """Writes beside the file, then renames: who reads the report sees the old or the new one, never half."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".report-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(name, 0o644)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)  # it is still there only where something failed
