"""What ``python -m arr_core.judge label`` does: pairs laid before a person, each answer appended to a file at once.

What is read: a file of preference pairs (a rank is not needed, and never shown), or a folder of images:

    images/
      a red mug on a table/   the folder's name is the prompt, or what prompt.txt in it says
        0.png  1.png  ...     compared two by two, in the order of their names; an odd one with the one before it
        source.png            for edits: what the images were made from

What is written is one line a pair in the format of preference pairs, with paths relative to the file. A pair whose images
are equally good is no preference pair: it goes into ``<name>.ties.jsonl`` beside it, so that it is not asked again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from ..data import DataError, PreferencePair, image_fault, load_pairs, open_image, task_of
from ..rubrics import load_rubric
from .queue import Card, Choice, Desk
from .server import DeskServer

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
LAST_WORD_S = 600.0  # after the last answer the page waits so long for the word that all is done


def run(options: argparse.Namespace) -> int:
    """The exit status, when every pair is labelled. Raises DataError, RubricError, JudgeError."""
    pairs = (
        folder_pairs(options.source)
        if options.source.is_dir()
        else load_pairs(options.source, labelled=False)
    )
    rubric = (
        load_rubric(options.rubric, task_of(pairs, options.source, None))
        if options.rubric
        else None
    )
    labels = Labels(options.output)
    left = [pair for pair in pairs if pair not in labels]
    if not left:
        print(f"all {len(pairs)} pairs are labelled in {options.output}")
        return 0
    done = threading.Event()
    desk = Desk(settle_s=LAST_WORD_S, total=len(pairs), answered=len(pairs) - len(left))
    server = DeskServer(desk, options.port)
    print(f"open {server.url}", file=sys.stderr, flush=True)
    with tqdm(
        total=len(pairs),
        initial=len(pairs) - len(left),
        desc="labelled",
        unit="pair",
        dynamic_ncols=True,
    ) as bar:

        def changed(at: int, choice: Choice, taken_back: bool) -> None:
            labels.take_back() if taken_back else labels.add(left[at], choice)
            bar.update(-1 if taken_back else 1)

        desk.add(
            [_card(pair, rubric.text if rubric else "") for pair in left],
            lambda answers: done.set(),
            changed,
        )
        try:
            while not done.wait(0.2):  # a wait without an end would not hear Ctrl-C on every system
                pass
        finally:
            desk.close()
            server.close()
    print(
        f"{len(pairs)} pairs: {labels.decided} labelled in {options.output}, {labels.ties} ties in {labels.ties_path}"
    )
    return 0


class Labels:
    """The file of labels and the one of ties beside it. Raises DataError for a file that holds something else."""

    def __init__(self, path: Path):
        if path.suffix.lower() != ".jsonl":
            raise DataError(f"{path}: expected an output that ends in .jsonl; change --output")
        if not path.absolute().parent.is_dir():
            raise DataError(
                f"{path}: expected a file in a folder that is there; make the folder, or change --output"
            )
        self.path, self.ties_path = path, path.with_suffix(".ties.jsonl")
        kept = [
            []
            if not file.exists() or not file.stat().st_size
            else load_pairs(file, labelled=file == path)
            for file in (path, self.ties_path)
        ]
        self.decided, self.ties = map(len, kept)
        self._known = {_name(pair) for part in kept for pair in part}
        self._added: list[tuple[Path, bytes]] = []

    def __contains__(self, pair: PreferencePair) -> bool:
        return _name(pair) in self._known

    def add(self, pair: PreferencePair, choice: Choice) -> None:
        """Append one answer. Raises OSError."""
        path = self.ties_path if choice is None else self.path
        line = (json.dumps(self._record(pair, choice), ensure_ascii=False) + "\n").encode(
            "utf-8", "backslashreplace"
        )
        before = path.read_bytes()[-1:] if path.exists() else b""
        line = (
            line if before in (b"", b"\n") else b"\n" + line
        )  # a file made by hand may not end its last line
        with path.open("ab", buffering=0) as file:
            file.write(line)
        self._added.append((path, line))
        self._count(path, 1)

    def take_back(self) -> None:
        """Remove the last answer that was appended. Raises OSError where the file has changed since."""
        path, line = self._added[-1]
        with path.open("r+b") as file:
            start = file.seek(0, os.SEEK_END) - len(line)
            file.seek(max(0, start))
            if start < 0 or file.read() != line:
                raise OSError(
                    f"{path}: expected the last answer at its end; another program has changed the file"
                )
            file.truncate(start)
        self._added.pop()
        self._count(path, -1)

    def _count(self, path: Path, step: int) -> None:
        if path == self.path:
            self.decided += step
        else:
            self.ties += step

    def _record(self, pair: PreferencePair, choice: Choice) -> dict:
        images = [self._relative(path) for path in pair.images]
        rank = {"label_rank": [1, 2] if choice == 0 else [2, 1]} if choice is not None else {}
        shown = (
            {"response": images}
            if pair.source is None
            else {"source_image": self._relative(pair.source), "edited_images": images}
        )
        return {"query": pair.prompt, **shown, **rank, **pair.tags}

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
            raise DataError(f"{part}: expected two images or more, came {len(images)}")
        for path in files:
            if fault := image_fault(path):
                raise DataError(f"{path}: expected an image, came {fault}")
        pairs += [PreferencePair(_prompt(part), two, None, source) for two in _two_by_two(images)]
    if not pairs:
        raise DataError(
            f"{folder}: expected a folder for each prompt with two images or more in it, came none"
        )
    return pairs


def _two_by_two(images: Sequence[Path]) -> Iterable[tuple[Path, Path]]:
    odd = [(images[-2], images[-1])] if len(images) % 2 else []
    return [*zip(images[::2], images[1::2], strict=False), *odd]


def _prompt(folder: Path) -> str:
    file = folder / "prompt.txt"
    try:
        prompt = file.read_text(encoding="utf-8-sig").strip() if file.exists() else folder.name
    except UnicodeDecodeError:
        raise DataError(f"{file}: expected a prompt in UTF-8") from None
    if not prompt:
        raise DataError(f"{file}: expected a prompt, came an empty file")
    return prompt


def _name(pair: PreferencePair) -> tuple:
    """What makes two pairs the same pair, whatever the order of their images."""
    return (
        pair.prompt,
        frozenset(path.resolve() for path in pair.images),
        pair.source and pair.source.resolve(),
    )


def _card(pair: PreferencePair, criteria: str) -> Card:
    base = None if pair.source is None else lambda: open_image(pair.source)
    return Card(
        pair.prompt,
        criteria,
        tuple(lambda path=path: open_image(path) for path in pair.images),
        base,
    )
