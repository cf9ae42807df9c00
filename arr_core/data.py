"""What a run reads: prompts, edits and preference pairs, checked before any model loads, and the order of their use.

The formats are the reference's, so that its data can be used as it is. A record's text and images go by any of the
names below; a path is relative to the file that holds it, and stays in its folder or one of ``ARR_IMAGES``. The first
fault ends the reading with one line: ``file:line: field: expected ..., got ...``.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from .common.errors import ArrError, show
from .common.files import read_text
from .common.images import FORMATS, SMALLEST_SIDE, image_fault
from .common.paths import IMAGE_FOLDERS, resource

TEXT = ("query", "prompt", "instruction")
IMAGES = ("response", "responses", "images", "image_paths")
EDITED = ("edited_images", "target_images", "output_images")
_ITEM, _DECODER = re.compile(r"[^\s,]"), json.JSONDecoder()
SOURCE = ("source_image", "base_image", "original_image", "input_image", "reference_image")


class DataError(ArrError, ValueError):
    """A data file that cannot be used: one line that says where, which field, what was expected and what it got."""


@dataclass(frozen=True)
class Example:
    """One thing to train on: a prompt, or an edit instruction with its source image. Tags are the other keys."""

    prompt: str
    source: Path | None = None
    tags: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class PreferencePair:
    """Two images for one prompt (of one source, for an edit) and the index of the one that people preferred.

    Tags are the record's other keys. ``preferred`` is None in a file that is still to be labelled.
    """

    prompt: str
    images: tuple[Path, Path]
    preferred: Literal[0, 1] | None
    source: Path | None = None
    tags: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def files(self) -> tuple[Path, ...]:
        """Both images, and the source of an edit."""
        return (*self.images, self.source) if self.source else self.images


@dataclass(frozen=True)
class Exemplar:
    """A prompt or instruction, why people chose as they did, and criteria that an expert would write."""

    prompt: str
    rationale: str
    criteria: tuple[str, ...] = ()


def load_examples(
    path: str | Path, task: Literal["t2i", "edit"], *, also: Sequence[Path] = ()
) -> list[Example]:
    """Prompts ("t2i": .txt with one a line, .jsonl, .json) or edits ("edit": .jsonl, .json), at least one.

    Text is stripped; blank lines are skipped; a prompt may occur twice. Images lie in the file's folder, in those of
    ``ARR_IMAGES``, or in ``also``. Raises DataError.
    """
    return [_example(record, task) for record in _records(path, also)]


def example_of(prompt: str, source: Path | None, where: str) -> Example:
    """One example, checked as those of a file are. ``where`` is what an error names. Raises DataError."""
    values = {"prompt": prompt, "source_image": source and os.path.abspath(source)}
    return _example(_Record(Path(where), 1, values, image_fault), "edit" if source else "t2i")


def _example(record: _Record, task: Literal["t2i", "edit"]) -> Example:
    prompt, given = record.text(TEXT), record.name_of(SOURCE)
    if task == "t2i" and given:
        raise record.error(given, "no source image, since this policy makes images from text")
    source = record.image(*record.required(SOURCE)) if task == "edit" else None
    return Example(prompt, source, record.tags(*TEXT, *SOURCE))


def load_split(
    train: str | Path,
    validation: str | Path | None,
    validation_count: int,
    task: Literal["t2i", "edit"],
) -> tuple[list[Example], list[Example]]:
    """Training and held-out examples, which share none: an example that is held out is left out of training.

    Without a validation file the last ``validation_count`` examples are held out. Raises DataError.
    """
    examples = load_examples(train, task)
    held_out = (
        examples[-validation_count:] if validation is None else load_examples(validation, task)
    )
    reserved = set(held_out)
    kept = [example for example in examples if example not in reserved]
    if not kept:
        raise DataError(
            f"{train}: expected examples beside the {len(held_out)} that are held out, got none; "
            "add some, lower data.validation_count or name another data.validation"
        )
    return kept, held_out


def load_pairs(
    path: str | Path, *, labelled: bool = True, also: Sequence[Path] | None = ()
) -> list[PreferencePair]:
    """Pairs of a .json list or .jsonl file, at least one: two images and ``label_rank``, where 1 is better.

    A pair with a source image is an edit. Without ``labelled`` a rank is neither needed nor read. Images lie as those of
    ``load_examples`` do; ``also`` None allows any place, for a person on this machine. Raises DataError.
    """
    pairs = []
    for record in _records(path, also):
        source = record.image(*record.required(SOURCE)) if record.name_of(SOURCE) else None
        images = record.pair(EDITED + IMAGES if source else IMAGES)
        rank = record.values.get("label_rank")
        if labelled and rank not in ([1, 2], [2, 1]):
            raise record.error("label_rank", "[1, 2] or [2, 1], where 1 is the better image")
        preferred: Literal[0, 1] = 0 if rank == [1, 2] else 1
        tags = record.tags(*TEXT, *SOURCE, *IMAGES, *EDITED, "label_rank")
        pairs.append(
            PreferencePair(record.text(TEXT), images, preferred if labelled else None, source, tags)
        )
    return pairs


def task_of(
    pairs: Sequence[PreferencePair], where: object, wanted: str | None = None
) -> Literal["t2i", "edit"]:
    """What the pairs are about: "edit" where they have a source image, else "t2i".

    Raises DataError for a mixture, and for another task than the one that is wanted.
    """
    edits = sum(pair.source is not None for pair in pairs)
    if 0 < edits < len(pairs):
        raise DataError(
            f"{where}: expected pairs of one task, got {edits} with a source image and {len(pairs) - edits} "
            "without; put them into two files"
        )
    task = "edit" if edits else "t2i"
    if wanted not in (None, task):
        raise DataError(
            f"{where}: expected pairs for the task {wanted!r}, got pairs {'with' if edits else 'without'} a source "
            f"image; did you mean --task {task}?"
        )
    return task


def load_exemplars(path: str | Path) -> list[Exemplar]:
    """Curated examples of a .json list or .jsonl file, at least one: text, ``rationale``, and perhaps a list ``criteria``.

    Pictures beside them are not read, so that labelled pairs with a rationale will do. Raises DataError.
    """
    exemplars = []
    for record in _records(path):
        criteria = record.values.get("criteria", [])
        if not isinstance(criteria, list) or not all(
            isinstance(line, str) and line.strip() for line in criteria
        ):
            raise record.error("criteria", "a list of texts")
        exemplars.append(
            Exemplar(
                record.text(TEXT),
                record.text(("rationale",)),
                tuple(" ".join(line.split()) for line in criteria),
            )
        )
    return exemplars


def content_hash(examples: Iterable[Example]) -> str:
    """Sixteen hex digits that name prompts and the bytes of their sources, in order."""
    digest = hashlib.sha256()
    for example in examples:
        source = example.source and hashlib.sha256(example.source.read_bytes()).hexdigest()
        digest.update(repr((example.prompt, source)).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()[:16]


class PromptOrder:
    """An endless shuffled order of ``count`` prompts: each once an epoch, each epoch in a new order, all from one seed.

    The order is a function of the seed and a position, so that a resumed run continues exactly where it stopped. What
    is taken across the end of an epoch may hold a prompt twice.
    """

    def __init__(self, count: int, seed: int):
        self.count, self.seed, self.cursor = count, seed, 0
        self._epoch, self._order = -1, []

    def upcoming(self, n: int, rank: int = 0, world: int = 1) -> list[int]:
        """The next ``n`` indices of this rank; all ranks together get the ``n * world`` that one alone would get."""
        first = self.cursor + rank * n
        return [self._at(position) for position in range(first, first + n)]

    def advance(self, n: int) -> None:
        """Go on behind the next ``n``, of all ranks together."""
        self.cursor += n

    def state(self) -> dict[str, int]:
        """What ``restore`` needs, as plain numbers."""
        return {"count": self.count, "seed": self.seed, "cursor": self.cursor}

    def restore(self, state: Mapping[str, int]) -> None:
        """Continues where ``state()`` was taken. Raises DataError if the count or the seed is another."""
        for name, now in (("count", self.count), ("seed", self.seed)):
            if state[name] != now:
                raise DataError(
                    f"prompt order: expected {name} {state[name]} as when the run was saved, got {now}"
                )
        self.cursor = state["cursor"]

    def _at(self, position: int) -> int:
        epoch, place = divmod(position, self.count)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, list(range(self.count))
            random.Random(f"{self.seed}/{epoch}").shuffle(self._order)
        return self._order[place]


@dataclass(frozen=True)
class _Record:
    """One record of a data file, where it stands, and what tells an image's fault."""

    file: Path
    line: int
    values: dict[str, Any]
    fault_of: Callable[[Path], str | None]
    folders: tuple[Path, ...] = ()  # an image lies in one of them, or anywhere where there are none

    def error(self, name: str, expected: str, got: str | None = None) -> DataError:
        """The refusal of a field; ``got`` is its value unless given."""
        got = show(self.values.get(name)) if got is None else got
        return DataError(f"{self.file}:{self.line}: {name}: expected {expected}, got {got}")

    def tags(self, *known: str) -> dict[str, Any]:
        """The fields that are none of the known ones."""
        return {name: value for name, value in self.values.items() if name not in known}

    def name_of(self, aliases: tuple[str, ...]) -> str | None:
        """The alias that this record uses, if any."""
        used = [name for name in aliases if self.values.get(name) is not None]
        if len({json.dumps(self.values[name]) for name in used}) > 1:
            raise self.error(
                used[0], f"one of {', '.join(aliases)}", f"{' and '.join(used)}, which differ"
            )
        return used[0] if used else None

    def required(self, aliases: tuple[str, ...]) -> tuple[str, Any]:
        name = self.name_of(aliases)
        if name is None:
            given = [key for key, value in self.values.items() if value is not None]
            raise self.error(
                aliases[0], f"one of {', '.join(aliases)}", f"only {', '.join(given) or 'nothing'}"
            )
        return name, self.values[name]

    def text(self, aliases: tuple[str, ...]) -> str:
        name, value = self.required(aliases)
        if not isinstance(value, str) or not value.strip():
            raise self.error(name, "a text that is not empty")
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise self.error(
                name, "text that UTF-8 can write", "a lone surrogate (\\ud800 to \\udfff)"
            )
        return value.strip()

    def pair(self, aliases: tuple[str, ...]) -> tuple[Path, Path]:
        name, value = self.required(aliases)
        if not isinstance(value, list) or len(value) != 2 or value[0] == value[1]:
            raise self.error(name, "a list of two different image paths")
        return self.image(name, value[0]), self.image(name, value[1])

    def image(self, name: str, value: Any) -> Path:
        """The path of an image that can be read to its end."""
        if not isinstance(value, str) or not value.strip():
            raise self.error(name, "the path of an image", show(value))
        path = self.file.parent / value
        if self.folders and not _is_in(path, self.folders):
            raise self.error(
                name,
                f"an image in the folder of the data file, since a judge far away may be shown it (the environment "
                f"variable {IMAGE_FOLDERS} names further folders)",
                show(value),
            )
        if fault := self.fault_of(path):
            raise self.error(
                name,
                f"an image ({', '.join(FORMATS)}) of at least {SMALLEST_SIDE} pixels a side",
                f"{fault}: {path}",
            )
        return path


def _records(name: str | Path, also: Sequence[Path] | None = ()) -> Iterator[_Record]:
    """The records of a file, or of one of the package's own (``room:path``), with their line numbers; at least one."""
    path = resource(name) or Path(name)
    text = read_text(path, "a data file", DataError)
    readers = {".txt": _text_lines, "": _text_lines, ".jsonl": _json_lines, ".json": _json_list}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: expected a .txt, .jsonl or .json file, got {path.suffix}")
    fault_of, empty = cache(image_fault), True
    named = filter(None, os.environ.get(IMAGE_FOLDERS, "").split(os.pathsep))
    allowed = () if also is None else (path.parent, *named, *also)
    folders = tuple(Path(folder).resolve() for folder in allowed)
    for line, value in readers[path.suffix.lower()](path, text):
        empty = False
        if isinstance(value, str):
            value = {"prompt": value}
        if not isinstance(value, dict):
            raise DataError(f"{path}:{line}: expected an object or a text, got {show(value)}")
        yield _Record(path, line, value, fault_of, folders)
    if empty:
        raise DataError(f"{path}: expected at least one record, got an empty file")


def _is_in(path: Path, folders: Iterable[Path]) -> bool:
    try:
        place = path.resolve()
    except (
        ValueError,
        OSError,
        RuntimeError,
    ):  # no name, or a link to itself: it is no image either
        return True
    return any(place.is_relative_to(folder) for folder in folders)


def _text_lines(path: Path, text: str) -> Iterator[tuple[int, str]]:
    for line, prompt in enumerate(text.split("\n"), 1):
        if re.match(r'\s*\{\s*"', prompt):
            raise DataError(
                f"{path}:{line}: expected a prompt, got a JSON object; name the file .jsonl"
            )
        if prompt.strip():
            yield line, prompt


def _json_lines(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    for line, record in enumerate(text.split("\n"), 1):
        if record.strip():
            try:
                yield line, json.loads(record)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{path}:{line}: expected one JSON object a line: {getattr(error, 'msg', error)}"
                ) from None


def _json_list(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """The items of a JSON list, each with the line it starts on."""
    try:
        items = json.loads(text) if text.strip() else []
    except (ValueError, RecursionError) as error:
        said, line = getattr(error, "msg", error), getattr(error, "lineno", 1)
        hint = "; name a file with one object a line .jsonl" if said == "Extra data" else ""
        raise DataError(f"{path}:{line}: expected a JSON list: {said}{hint}") from None
    if not isinstance(items, list):
        raise DataError(f"{path}: expected a JSON list of objects, got {show(items)}")
    line, start, end = 1, 0, text.find("[") + 1
    for item in items:
        before, start = start, next(_ITEM.finditer(text, end)).start()
        line += text.count("\n", before, start)
        yield line, item
        end = _DECODER.raw_decode(text, start)[1]
