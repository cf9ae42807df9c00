"""``python -m arr_core.judge label``: a person labels pairs in a page, and each answer is appended to a file at once.

The source is a file of preference pairs (a rank is not needed, and never shown), or a folder of images:

    images/
      a red mug on a table/   the folder's name is the prompt, or the content of prompt.txt in it
        0.png  1.png  ...     compared two by two, in the order of their names; an odd one with the one before it
        source.png            for edits: what the images were made from

The output has one line a pair in the format of preference pairs, with paths relative to the file. A pair whose images
are equally good is no preference pair: it goes into ``<name>.ties.jsonl`` beside it, so that it is not asked again.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
from concurrent.futures import wait
from functools import partial
from pathlib import Path

from ..common.files import JsonLines, read_text
from ..common.progress import ProgressBars
from ..data import DataError, PreferencePair, image_fault, load_pairs, task_of
from ..rubrics import load_rubric
from .queue import Choice, LabelingQueue, Task
from .server import LabelingServer

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
# After the last answer the page waits so long for the word that all is done.
LAST_UNDO_WINDOW_S = 600.0


def label(source: Path, output: Path, *, rubric: Path | None = None, port: int = 0) -> int:
    """The exit status, when every pair is labelled. Raises DataError, RubricError, JudgeError."""
    pairs = (
        folder_pairs(source) if source.is_dir() else load_pairs(source, labelled=False, also=None)
    )
    criteria = load_rubric(rubric, task_of(pairs, source)).text if rubric else ""
    labels = Labels(output)
    left = [pair for pair in pairs if pair not in labels]
    if not left:
        print(f"all {len(pairs)} pairs are labelled in {output}")
        return 0
    answered = len(pairs) - len(left)
    queue = LabelingQueue(LAST_UNDO_WINDOW_S, total=len(pairs), answered=answered)
    with contextlib.ExitStack() as stack:
        server = LabelingServer(queue, port)
        stack.callback(server.close)
        stack.callback(queue.close)
        print(f"open {server.url}", file=sys.stderr, flush=True)
        report = stack.enter_context(ProgressBars("pair"))
        report("labelled", answered, len(pairs))

        def changed(pair: PreferencePair, choice: Choice, undone: bool) -> None:
            labels.undo() if undone else labels.add(pair, choice)
            report("labelled", queue.answered + (-1 if undone else 1), len(pairs))

        tasks = [
            Task(pair.prompt, criteria, pair.images, pair.source, partial(changed, pair))
            for pair in left
        ]
        answers = queue.add(tasks)
        while not wait([answers], timeout=0.2).done:  # so that Ctrl-C is heard on every system
            pass
    decided, ties = (labels.counts[path] for path in (output, labels.ties_path))
    print(f"{len(pairs)} pairs: {decided} labelled in {output}, {ties} ties in {labels.ties_path}")
    return 0


class Labels:
    """The file of labels and the file of ties beside it. Raises DataError for a file that holds something else."""

    def __init__(self, path: Path):
        if path.suffix.lower() != ".jsonl":
            raise DataError(
                f"{path}: expected an output that ends in .jsonl, got {path.name}; change --output"
            )
        if path.exists() and not path.is_file():
            raise DataError(
                f"{path}: expected a file, got a folder, pipe or device; change --output"
            )
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        self.path, self.ties_path = path, path.with_suffix(".ties.jsonl")
        self.counts: Counter[Path] = Counter()
        self._known = set()
        for file in (path, self.ties_path):
            if _size(file):
                pairs = load_pairs(file, labelled=file == path, also=None)
                self.counts[file] = len(pairs)
                self._known |= {_identity(pair) for pair in pairs}
        self._added: list[tuple[Path, int, bytes]] = []  # file, its size before, what was appended

    def __contains__(self, pair: PreferencePair) -> bool:
        return _identity(pair) in self._known

    def add(self, pair: PreferencePair, choice: Choice) -> None:
        """Append one answer. Raises OSError."""
        path = self.ties_path if choice is None else self.path
        size = _size(path)
        with contextlib.closing(JsonLines(path)) as lines:
            lines.append(self._record(pair, choice))
        self._added.append((path, size, path.read_bytes()[size:]))
        self.counts[path] += 1

    def undo(self) -> None:
        """Remove the last answer that was appended. Raises OSError where the file has changed since."""
        path, size, appended = self._added[-1]
        if path.read_bytes()[size:] != appended:
            raise OSError(
                f"{path}: expected the last answer at its end; another program has changed the file"
            )
        os.truncate(path, size)
        self._added.pop()
        self.counts[path] -= 1

    def _record(self, pair: PreferencePair, choice: Choice) -> dict:
        images = [self._relative(path) for path in pair.images]
        record: dict = {"query": pair.prompt}
        if pair.source is None:
            record["response"] = images
        else:
            record |= {"source_image": self._relative(pair.source), "edited_images": images}
        if choice is not None:
            record["label_rank"] = [1, 2] if choice == 0 else [2, 1]
        return record | dict(pair.tags)

    def _relative(self, path: Path) -> str:
        try:
            return Path(os.path.relpath(path.resolve(), self.path.resolve().parent)).as_posix()
        except ValueError:  # another drive of Windows
            return str(path.resolve())


def folder_pairs(folder: Path) -> list[PreferencePair]:
    """The pairs of a folder of images, as the module describes it. Raises DataError."""
    pairs = []
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(path for path in part.iterdir() if path.suffix.lower() in SUFFIXES)
        source = next((path for path in files if path.stem == "source"), None)
        images = [path for path in files if path != source]
        if len(images) < 2:
            raise DataError(f"{part}: expected two images or more, got {len(images)}")
        for path in files:
            if fault := image_fault(path):
                raise DataError(f"{path}: expected an image, got {fault}")
        if len(images) % 2:
            images.insert(-1, images[-2])
        prompt, twos = _prompt(part), zip(images[::2], images[1::2], strict=True)
        pairs += [PreferencePair(prompt, two, None, source) for two in twos]
    if not pairs:
        raise DataError(
            f"{folder}: expected a folder for each prompt with two images or more in it, got none"
        )
    return pairs


def _prompt(folder: Path) -> str:
    file = folder / "prompt.txt"
    prompt = folder.name
    if file.exists():
        prompt = read_text(file, "a prompt in UTF-8", DataError, 2**20).strip()
    if not prompt:
        raise DataError(f"{file}: expected a prompt, got an empty file")
    return prompt


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _identity(pair: PreferencePair) -> tuple:
    """Equal for the same pair, whatever the order of its images."""
    images = frozenset(path.resolve() for path in pair.images)
    return pair.prompt, images, pair.source and pair.source.resolve()
