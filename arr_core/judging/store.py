"""The verdict store: opinions in SQLite, named by the content of the question; the same question costs one call."""
from __future__ import annotations

import json
import sqlite3
import threading
from dataclasses import asdict, replace
from pathlib import Path

from .verdict import Opinion


class VerdictStore:
    """A file (or ``:memory:``) of opinions, shared by threads and processes; a failure is never stored."""

    def __init__(self, path: str | Path):
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(str(path), check_same_thread=False, timeout=30)
        with self._lock, self._connection:
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS opinions (key TEXT PRIMARY KEY, prompt TEXT NOT NULL, "
                "opinion TEXT NOT NULL, time TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)")

    def get(self, key: str) -> Opinion | None:
        """The opinion stored under a key, marked as cached, or None."""
        with self._lock:
            row = self._connection.execute("SELECT opinion FROM opinions WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        content = json.loads(row[0])
        content["findings"] = tuple(tuple(finding) for finding in content["findings"])
        return replace(Opinion(**content), cached=True)

    def put(self, key: str, prompt: str, opinion: Opinion) -> None:
        """Store an opinion; the first one stays."""
        if opinion.failure:
            raise ValueError(f"a failure is no opinion to remember: {opinion.failure}")
        with self._lock, self._connection:
            # A lone surrogate, which JSON may hold, has no UTF-8: SQLite takes its escape.
            values = (key, prompt.encode("utf-8", "backslashreplace").decode(), json.dumps(asdict(opinion)))
            self._connection.execute("INSERT OR IGNORE INTO opinions (key, prompt, opinion) VALUES (?, ?, ?)", values)

    def __len__(self) -> int:
        with self._lock:
            return self._connection.execute("SELECT count(*) FROM opinions").fetchone()[0]

    def close(self) -> None:
        with self._lock:
            self._connection.close()
