"""The verdict store: replies and opinions in SQLite, named by the content of the question, and the audit trail of verdicts.

The same question costs one call. ``ARR_VERDICTS`` may name a second file that several runs share: what a run's own store
does not know is looked up there, and what is new goes into both, so that a run's own trail stays whole.

| table | holds |
|---|---|
| opinions | key, opinion of a judge; never a failure |
| replies | key, text of another model's reply, such as a rubric writer's |
| verdicts | one row for each different verdict: when, images, rubric, judge, result, and every opinion, failures included |
| thumbnails | image hash, WebP |
| rubrics | content hash, name, text |
| labels | hash of a pair, hash of the image that people prefer |

Opinions and replies are JSON, compressed with zlib.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from .pictures import smaller
from .verdict import SIDES, JudgeError, Opinion, Side

Built = TypeVar("Built")
MAX_BYTES = 2**26  # of what is packed
VERSION = 2  # of the tables; SQLite keeps it as user_version
LARGEST = 192  # pixels of a thumbnail's longer side
EXACT = 96  # pixels up to which a thumbnail is kept without loss
QUALITY = 50  # of WebP: about 4 kB a photograph
TABLES = {
    "opinions": "key TEXT PRIMARY KEY, content BLOB NOT NULL",
    "replies": "key TEXT PRIMARY KEY, content BLOB NOT NULL",
    "verdicts": "hash BLOB PRIMARY KEY, prompt TEXT NOT NULL, image_a BLOB NOT NULL, image_b BLOB NOT NULL, "
    "source BLOB, rubric TEXT NOT NULL, judge TEXT NOT NULL, preferred TEXT, reason TEXT NOT NULL, "
    "opinions BLOB NOT NULL, time TEXT NOT NULL",
    "thumbnails": "hash BLOB PRIMARY KEY, webp BLOB NOT NULL",
    "rubrics": "hash TEXT PRIMARY KEY, name TEXT NOT NULL, text TEXT NOT NULL",
    "labels": "pair BLOB PRIMARY KEY, preferred BLOB NOT NULL",
}


@dataclass(frozen=True)
class Entry:
    """A verdict of the audit trail: the pair by the hashes of its images, rubric and judge, and what was said."""

    prompt: str
    image_a: bytes
    image_b: bytes
    source: bytes | None
    rubric: str  # content hash
    judge: str  # identity of the client
    preferred: Side | None
    reason: str
    opinions: tuple[Opinion, ...]  # order a, b, then b, a
    time: str = ""  # when it was stored, in UTC

    @property
    def outcome(self) -> str:
        """ "decided", "failed", "disagree" (the orders name different images) or "tie" (what else is undecided)."""
        if self.preferred is not None:
            return "decided"
        if any(opinion.failure for opinion in self.opinions):
            return "failed"
        places = [opinion.preferred for opinion in self.opinions]
        same_place = len(places) == 2 and None not in places and places[0] == places[1]
        return "disagree" if same_place else "tie"

    @property
    def winner(self) -> bytes | None:
        """The hash of the preferred image."""
        return {"a": self.image_a, "b": self.image_b}.get(self.preferred or "")

    @property
    def pair(self) -> bytes:
        """The same for the same pair, whichever of its images is a."""
        return pair_hash(self.prompt, self.image_a, self.image_b, self.source)

    @property
    def content_hash(self) -> bytes:
        """The same for the same verdict, whatever it cost, so that it is kept once."""
        said = [(one.preferred, one.reply, one.reason, one.failure) for one in self.opinions]
        pair = (self.prompt, self.image_a, self.image_b, self.source, self.rubric, self.judge)
        content = repr((pair, self.preferred, said)).encode("utf-8", "backslashreplace")
        return hashlib.sha256(content).digest()[:16]


def pair_hash(prompt: str, image_a: bytes, image_b: bytes, source: bytes | None) -> bytes:
    """Sixteen bytes that name a pair by its prompt and its images, in any order."""
    content = repr((prompt, sorted((image_a, image_b)), source)).encode("utf-8", "backslashreplace")
    return hashlib.sha256(content).digest()[:16]


def shared_file() -> str | None:
    """The file that several runs share, where the user has named one."""
    return os.environ.get("ARR_VERDICTS") or None


def thumbnail(image: Image.Image) -> bytes:
    """A WebP of at most 192 pixels a side; an image of a few pixels is kept exactly."""
    # The fast ways: a run has two thumbnails a question.
    small, buffer = smaller(image, LARGEST, Image.Resampling.BILINEAR), io.BytesIO()
    small.save(buffer, "WEBP", lossless=max(small.size) <= EXACT, quality=QUALITY, method=0)
    return buffer.getvalue()


class VerdictStore:
    """A file (or ``:memory:``, for which no audit trail is kept), used by threads and processes at once.

    What is stored already stays: nothing is ever replaced. Raises JudgeError for a file that is no store or cannot be written.
    """

    def __init__(self, path: str | Path, *, shared: str | Path | None = None):
        self.path, self.keeps_trail = str(path), str(path) != ":memory:"
        self._lock = threading.Lock()
        self._shared: VerdictStore | None = None
        if shared is not None and Path(shared).resolve() != Path(path).resolve():
            try:
                self._shared = VerdictStore(shared)
            except JudgeError as error:
                raise JudgeError(f"ARR_VERDICTS names {error}") from error
        if Path(path).exists() and not Path(path).is_file():
            raise JudgeError(
                f"{path}: expected the file of a verdict store, got a folder, pipe or device"
            )
        with self._open():
            # A transaction begins as a writer, so that two processes wait for each other instead of failing half-way.
            self._connection = sqlite3.connect(
                self.path, check_same_thread=False, timeout=60, isolation_level="IMMEDIATE"
            )
            self._connection.execute("PRAGMA journal_mode=WAL")
            # Survives a kill of the process; a power cut may lose the last transactions.
            self._connection.execute("PRAGMA synchronous=NORMAL")
            if self._version() != VERSION:
                self._create_tables()
            foreign = "SELECT count(*) FROM sqlite_master WHERE type IN ('view', 'trigger')"
            if self._connection.execute(foreign).fetchone()[0]:  # they would run
                raise self._damaged("views or triggers")

    def get(self, keys: Sequence[str]) -> dict[str, Opinion]:
        """The opinions that are stored under these keys, marked as cached."""
        return {
            key: replace(self._unpacked(content, Opinion.load), cached=True)
            for key, content in self._get("opinions", keys).items()
        }

    def put(self, opinions: Mapping[str, Opinion]) -> None:
        """Store opinions by key. Failures are left out: they are to be asked again."""
        packed = {key: _packed(asdict(one)) for key, one in opinions.items() if not one.failure}
        self._put("opinions", packed)

    def get_reply(self, key: str) -> str | None:
        """The text that is stored under this key."""
        content = self._get("replies", [key]).get(key)
        return None if content is None else self._unpacked(content, str)

    def put_reply(self, key: str, text: str) -> None:
        """Store the text of a reply."""
        self._put("replies", {key: _packed(text)})

    def put_verdicts(self, entries: Iterable[Entry]) -> None:
        """Add verdicts to the audit trail."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        rows = []
        for entry in entries:
            opinions = _packed([asdict(replace(one, cached=False)) for one in entry.opinions])
            row = {**vars(entry), "opinions": opinions, "time": entry.time or now}
            rows.append((entry.content_hash, *row.values()))
        self._insert("verdicts", rows)

    def put_rubric(self, content_hash: str, name: str, text: str) -> None:
        """Store the words of a rubric that verdicts name."""
        self._insert("rubrics", [(content_hash, name, text)])

    def put_thumbnails(self, thumbnails: Mapping[bytes, bytes]) -> None:
        """Store WebP files by the hash of their image."""
        self._insert("thumbnails", thumbnails.items())

    def put_labels(self, labels: Mapping[bytes, bytes]) -> None:
        """Store which image people prefer, by the hash of the pair; another label takes the place of an earlier one."""
        self._insert("labels", labels.items(), "REPLACE")

    def labels(self) -> dict[bytes, bytes]:
        """The image that people prefer, by the hash of the pair."""
        return dict(self._rows("labels"))

    def entries(self) -> Iterator[Entry]:
        """The verdicts of the audit trail, the newest first."""
        for row in self._rows("verdicts", "ORDER BY rowid DESC"):
            _, *fields, opinions, time = row
            said = self._unpacked(opinions, lambda rows: tuple(map(Opinion.load, rows)))
            entry = Entry(*fields, opinions=said, time=time)
            if entry.preferred not in (*SIDES, None):
                raise self._damaged("a row of verdicts that names no image")
            yield entry

    def thumbnails(self, hashes: Iterable[bytes]) -> dict[bytes, bytes]:
        """The WebP files of images, by hash, where there are any."""
        return self._select("thumbnails", "hash", hashes)

    def rubrics(self) -> dict[str, tuple[str, str]]:
        """Name and text of the rubrics, by content hash."""
        return {key: (name, text) for key, name, text in self._rows("rubrics")}

    def __len__(self) -> int:
        """The number of opinions."""
        return self._query("SELECT count(*) FROM opinions")[0][0]

    def close(self) -> None:
        with self._lock:
            self._connection.close()
        if self._shared is not None:
            self._shared.close()

    def _get(self, table: str, keys: Sequence[str]) -> dict[str, bytes]:
        """What a cache holds. What only the shared file knows is copied."""
        found = self._select(table, "key", keys)
        if self._shared is not None and (missing := [key for key in keys if key not in found]):
            copied = self._shared._get(table, missing)
            self._insert(table, copied.items())
            found |= copied
        return found

    def _put(self, table: str, contents: Mapping[str, bytes]) -> None:
        self._insert(table, contents.items())
        if self._shared is not None:
            self._shared._put(table, contents)

    def _query(self, question: str, values: Sequence = ()) -> list[tuple]:
        with self._open():
            return self._connection.execute(question, values).fetchall()

    def _select(self, table: str, column: str, keys: Iterable) -> dict[Any, bytes]:
        """The contents of a table of two columns, by these keys."""
        return dict(row for key in keys for row in self._rows(table, f"WHERE {column} = ?", [key]))

    def _rows(self, table: str, clause: str = "", values: Sequence = ()) -> Iterator[tuple]:
        """Rows that are what ``TABLES`` says; SQLite itself lets anything stand in any column."""
        columns = TABLES[table].split(", ")
        for row in self._query(f"SELECT * FROM {table} {clause}", values):
            if len(row) != len(columns) or not all(map(_fits, row, columns)):
                raise self._damaged(f"a damaged row of {table}")
            yield row

    def _unpacked(self, content: bytes, build: Callable[[Any], Built]) -> Built:
        try:
            unpacker = zlib.decompressobj()
            text = unpacker.decompress(content, MAX_BYTES)
            if not unpacker.eof:
                raise ValueError
            return build(json.loads(text))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError, zlib.error):
            raise self._damaged("a damaged reply or opinion") from None

    def _damaged(self, got: str) -> JudgeError:
        return JudgeError(
            f"{self.path}: expected rows as this program writes them, got {got}; move the file away, and a new one is made"
        )

    def _insert(self, table: str, rows: Iterable[Sequence], known: str = "IGNORE") -> None:
        """Store rows in one transaction; the first that has a key stays, unless what is known is to be replaced."""
        storable = [tuple(map(_utf8, row)) for row in rows]
        if storable:
            places = ", ".join("?" * len(storable[0]))
            with self._open(), self._connection:
                self._connection.executemany(
                    f"INSERT OR {known} INTO {table} VALUES ({places})", storable
                )

    def _version(self) -> int:
        return self._connection.execute("PRAGMA user_version").fetchone()[0]

    def _create_tables(self) -> None:
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            version = self._version()
            if version == VERSION:  # another process was first
                return
            if self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise JudgeError(
                    f"{self.path}: expected a verdict store of version {VERSION}, got version {version} or "
                    "another program's file; move it away, and a new one is made"
                )
            for table, columns in TABLES.items():
                self._connection.execute(f"CREATE TABLE {table} ({columns})")
            self._connection.execute(f"PRAGMA user_version={VERSION}")

    @contextmanager
    def _open(self) -> Iterator[None]:
        """This thread alone has the connection; what SQLite says becomes a JudgeError with the file in it."""
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                raise JudgeError(
                    f"{self.path}: expected a verdict store that can be written; {error}"
                ) from error


def _fits(value: Any, column: str) -> bool:
    kind = bytes if " BLOB" in column else str
    return isinstance(value, kind if "NOT NULL" in column or "PRIMARY" in column else kind | None)


def _utf8(value: Any) -> Any:
    """A lone surrogate, which JSON may hold, has no UTF-8: SQLite takes its escape."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _packed(content: Any) -> bytes:
    return zlib.compress(json.dumps(content).encode())
