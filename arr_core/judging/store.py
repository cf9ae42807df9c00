"""The verdict store: opinions in SQLite, named by the content of the question, and the audit trail of every verdict.

The same question costs one call. ``ARR_VERDICTS`` may name a second file that several runs share: what is not known to
a run's own store is looked up there, and what is new goes into both, so that a run's own trail stays whole.

| table | holds |
|---|---|
| opinions | key, prompt, opinion: every reply that was read, never a failure |
| verdicts | one row for each different verdict: when, which images, rubric and judge, what came out, failures included |
| thumbnails | by the image's hash, WebP |
| rubrics | by the content hash, name and text |

Opinions are JSON, compressed with zlib; a file of an older version has them as plain text, which is read too.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from PIL import Image

from .verdict import JudgeError, Opinion, Side

LARGEST = 192  # pixels of a thumbnail's longer side
EXACT = 96  # pixels up to which a thumbnail is kept without loss
QUALITY = 50  # of WebP: about 4 kB a photograph
AT_ONCE = 500  # values in one question to SQLite
OPINIONS = "key TEXT PRIMARY KEY, prompt TEXT NOT NULL, opinion NOT NULL, time TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP"
TRAIL = {
    "verdicts": "name BLOB PRIMARY KEY, time TEXT NOT NULL, prompt TEXT NOT NULL, image_a BLOB NOT NULL, "
    "image_b BLOB NOT NULL, source BLOB, rubric TEXT NOT NULL, judge TEXT NOT NULL, preferred TEXT, "
    "reason TEXT NOT NULL, opinions BLOB NOT NULL",
    "thumbnails": "hash BLOB PRIMARY KEY, webp BLOB NOT NULL",
    "rubrics": "hash TEXT PRIMARY KEY, name TEXT NOT NULL, text TEXT NOT NULL",
}


@dataclass(frozen=True)
class _Judged:
    """A pair by the hashes of its images, under a rubric by its hash, and what a judge made of it."""

    prompt: str
    image_a: bytes
    image_b: bytes
    source: bytes | None
    rubric: str
    judge: str
    preferred: Side | None
    reason: str


@dataclass(frozen=True)
class Record(_Judged):
    """A verdict as the trail keeps it: opinions by their keys where they are stored."""

    opinions: tuple[str | Opinion, ...]  # order a, b, then b, a; a failure stands here itself

    @property
    def name(self) -> bytes:
        """The same for the same verdict, so that it is kept once."""
        said = [said if isinstance(said, str) else said.failure for said in self.opinions]
        content = (
            said,
            self.preferred,
            self.prompt,
            self.image_a,
            self.image_b,
            self.source,
            self.rubric,
            self.judge,
        )
        return hashlib.sha256(repr(content).encode("utf-8", "backslashreplace")).digest()[:16]


@dataclass(frozen=True)
class Entry(_Judged):
    """A verdict of the trail, as it is read back."""

    opinions: tuple[Opinion, ...]
    time: str

    @property
    def outcome(self) -> str:
        """ "decided", "failed", "disagree" (the orders name different images) or "tie" (what else is undecided)."""
        if self.preferred is not None:
            return "decided"
        if any(opinion.failure for opinion in self.opinions):
            return "failed"
        places = [opinion.preferred for opinion in self.opinions]
        return (
            "disagree"
            if len(places) == 2 and None not in places and places[0] == places[1]
            else "tie"
        )


def shared_file() -> str | None:
    """The file that several runs share, where the user has named one."""
    return os.environ.get("ARR_VERDICTS") or None


def thumbnail(image: Image.Image) -> bytes:
    """A WebP of at most 192 pixels a side; a picture of a few pixels is kept exactly. About 4 ms for half a megapixel."""
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    if max(rgb.size) > LARGEST:
        scale = LARGEST / max(rgb.size)
        rgb = rgb.resize(
            [max(1, round(side * scale)) for side in rgb.size],
            Image.Resampling.BICUBIC,
            reducing_gap=2.0,
        )
    buffer = io.BytesIO()
    if max(rgb.size) <= EXACT:
        rgb.save(buffer, "WEBP", lossless=True, method=1, quality=20)
    else:
        rgb.save(buffer, "WEBP", quality=QUALITY, method=2)
    return buffer.getvalue()


class VerdictStore:
    """A file (or ``:memory:``, which keeps no trail) of opinions and verdicts, shared by threads and processes.

    Raises JudgeError for a file that is no store or cannot be written.
    """

    def __init__(self, path: str | Path, *, shared: str | Path | None = None):
        self.path, self.keeps_trail = str(path), str(path) != ":memory:"
        self._lock = threading.Lock()
        self._shared = None if shared is None or _same(path, shared) else str(shared)
        self._schemas = ["main", "shared"] if self._shared else ["main"]
        with self._open():
            # A transaction begins where it is said, so that one group of verdicts is written in one.
            self._connection = sqlite3.connect(
                str(path), check_same_thread=False, timeout=60, isolation_level=None
            )
            if self._shared:
                self._connection.execute("ATTACH DATABASE ? AS shared", (self._shared,))
            for schema in self._schemas:
                self._connection.execute(f"PRAGMA {schema}.journal_mode=WAL")
                self._connection.execute(
                    f"PRAGMA {schema}.synchronous=NORMAL"
                )  # outlives a kill; not written twice
                self._connection.execute(
                    f"CREATE TABLE IF NOT EXISTS {schema}.opinions ({OPINIONS})"
                )
            for table, columns in TRAIL.items() if self.keeps_trail else ():
                self._connection.execute(f"CREATE TABLE IF NOT EXISTS main.{table} ({columns})")

    def get(self, keys: Sequence[str]) -> dict[str, Opinion]:
        """The opinions that are stored under these keys, marked as cached. What only the shared file knew is copied."""
        rows: dict[str, tuple] = {}
        with self._open():
            for schema in self._schemas:
                missing = [key for key in keys if key not in rows]
                found = {
                    row[0]: row
                    for row in self._select(
                        f"SELECT key, prompt, opinion FROM {schema}.opinions WHERE key", missing
                    )
                }
                if schema == "shared" and found:
                    with self._transaction():
                        self._insert("main.opinions", ("key", "prompt", "opinion"), found.values())
                rows.update(found)
        return {key: replace(_opinion(row[2]), cached=True) for key, row in rows.items()}

    def put(
        self,
        opinions: Mapping[str, tuple[str, Opinion]],
        records: Iterable[Record] = (),
        thumbnails: Mapping[bytes, bytes] | None = None,
        rubric: tuple[str, str, str] | None = None,
    ) -> None:
        """Store prompts and opinions by key, and what the trail keeps, in one transaction. What is there stays.

        rubric: content hash, name and text.
        """
        failures = [opinion.failure for _, opinion in opinions.values() if opinion.failure]
        if failures:
            raise ValueError(f"a failure is no opinion to remember: {failures[0]}")
        rows = [
            (key, _utf8(prompt), _packed(asdict(opinion)))
            for key, (prompt, opinion) in opinions.items()
        ]
        with self._open(), self._transaction():
            for schema in self._schemas:
                self._insert(f"{schema}.opinions", ("key", "prompt", "opinion"), rows)
            if self.keeps_trail:
                self._insert("thumbnails", ("hash", "webp"), (thumbnails or {}).items())
                self._insert(
                    "rubrics",
                    ("hash", "name", "text"),
                    [tuple(map(_utf8, rubric))] if rubric else [],
                )
                now = datetime.now(timezone.utc).isoformat(timespec="seconds")
                names = ("name", "time", *(field.name for field in fields(Record)))
                self._insert("verdicts", names, [_row(record, now) for record in records])

    def without_thumbnail(self, hashes: Iterable[bytes]) -> set[bytes]:
        """Those of the images that the trail has no thumbnail of yet."""
        hashes = list(hashes)
        if not self.keeps_trail:
            return set()
        with self._open():
            return set(hashes) - {
                row[0] for row in self._select("SELECT hash FROM thumbnails WHERE hash", hashes)
            }

    def entries(self, last: int | None = None) -> Iterator[Entry]:
        """The verdicts of the trail, the newest first."""
        columns = ", ".join(field.name for field in fields(Entry))
        with self._open():
            rows = (
                self._connection.execute(
                    f"SELECT {columns} FROM verdicts ORDER BY rowid DESC LIMIT ?",
                    (-1 if last is None else last,),
                ).fetchall()
                if self.keeps_trail
                else []
            )
        for at in range(0, len(rows), AT_ONCE):
            part = [
                (judged, _unpacked(said), time) for *judged, said, time in rows[at : at + AT_ONCE]
            ]
            stored = self.get([one for _, said, _ in part for one in said if isinstance(one, str)])
            for judged, said, time in part:
                opinions = tuple(
                    stored.get(one, Opinion(None, failure="the opinion is lost"))
                    if isinstance(one, str)
                    else _as_opinion(one)
                    for one in said
                )
                yield Entry(*judged, opinions, time)

    def thumbnails(self, hashes: Iterable[bytes]) -> dict[bytes, bytes]:
        """The WebP files of images, by hash, where there are any."""
        with self._open():
            return dict(self._select("SELECT hash, webp FROM thumbnails WHERE hash", list(hashes)))

    def rubrics(self) -> dict[str, tuple[str, str]]:
        """Name and text of the rubrics, by content hash."""
        with self._open():
            return {
                key: (name, text)
                for key, name, text in self._connection.execute(
                    "SELECT hash, name, text FROM rubrics"
                )
            }

    def __len__(self) -> int:
        """The number of opinions."""
        with self._open():
            return self._connection.execute("SELECT count(*) FROM main.opinions").fetchone()[0]

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _select(self, question: str, values: Sequence) -> Iterator[tuple]:
        for at in range(0, len(values), AT_ONCE):
            part = values[at : at + AT_ONCE]
            yield from self._connection.execute(
                f"{question} IN ({', '.join('?' * len(part))})", part
            )

    def _insert(self, table: str, columns: Sequence[str], rows: Iterable[tuple]) -> None:
        self._connection.executemany(
            f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
            rows,
        )

    @contextmanager
    def _open(self) -> Iterator[None]:
        """This thread alone has the connection; what SQLite says becomes a JudgeError with the file in it."""
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                shared = f" (or {self._shared}, named by ARR_VERDICTS)" if self._shared else ""
                raise JudgeError(
                    f"{self.path}{shared}: expected a verdict store that can be written; {error}"
                ) from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing. It begins as a writer, so that two processes wait for each other instead of failing half-way."""
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield


def _same(path: str | Path, other: str | Path) -> bool:
    return Path(path).resolve() == Path(other).resolve()


def _utf8(text: str) -> str:
    """A lone surrogate, which JSON may hold, has no UTF-8: SQLite takes its escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def _packed(content: Any) -> bytes:
    return zlib.compress(
        json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass"), 6
    )


def _unpacked(content: str | bytes) -> Any:
    return json.loads(
        content
        if isinstance(content, str)
        else zlib.decompress(content).decode("utf-8", "surrogatepass")
    )


def _row(record: Record, now: str) -> tuple:
    said = [one if isinstance(one, str) else asdict(one) for one in record.opinions]
    values = {field.name: getattr(record, field.name) for field in fields(Record)} | {
        "opinions": _packed(said)
    }
    return (
        record.name,
        now,
        *(_utf8(value) if isinstance(value, str) else value for value in values.values()),
    )


def _opinion(content: str | bytes) -> Opinion:
    return _as_opinion(_unpacked(content))


def _as_opinion(content: dict[str, Any]) -> Opinion:
    """An opinion of any version: fields that it lacks have their defaults, those that are gone are left out."""
    known = {field.name for field in fields(Opinion)}
    return Opinion.load({name: value for name, value in content.items() if name in known})
