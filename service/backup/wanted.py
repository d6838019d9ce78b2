"""The blobs that rows name, each once, beside those that are there: on disk, since there may be millions."""

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Self

from service.store.blobs import Listed
from service.store.references import Reference

CHUNK = 1000  # rows held at once


class Wanted:
    """For one thread."""

    def __init__(self) -> None:
        # A database without a name is a temporary file of SQLite's own, gone when it is closed.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute(
            "CREATE TABLE wanted (key TEXT PRIMARY KEY, digest TEXT, there INTEGER NOT NULL DEFAULT 0) "
            "WITHOUT ROWID"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM wanted").fetchone()[0])

    def add(self, references: Iterable[Reference]) -> None:
        self._database.execute("BEGIN")
        self._database.executemany(
            "INSERT OR IGNORE INTO wanted (key, digest) VALUES (?, ?)",
            ((each.key, each.digest) for each in references),
        )
        self._database.execute("COMMIT")

    def mark(self, listed: Iterable[Listed], prefix: str, before: float) -> int:
        """Note which are there.

        Args:    prefix: that the listed keys have before ours.
                 before: seconds since the epoch; what is younger isn't counted.
        Returns: how many others are there, that nothing names.
        """
        others = 0
        self._database.execute("BEGIN")
        for each in listed:
            key = each.key.removeprefix(prefix)
            found = self._database.execute("UPDATE wanted SET there = 1 WHERE key = ?", (key,)).rowcount
            others += not found and each.modified_at < before
        self._database.execute("COMMIT")
        return others

    def count(self, *, there: bool) -> int:
        found = self._database.execute("SELECT count(*) FROM wanted WHERE there = ?", (there,)).fetchone()
        return int(found[0])

    def blobs(self, *, there: bool) -> Iterator[Reference]:
        """Those that are there, or those that aren't, in the order of their keys."""
        last = ""
        while rows := self._database.execute(
            "SELECT key, digest FROM wanted WHERE there = ? AND key > ? ORDER BY key LIMIT ?",
            (there, last, CHUNK),
        ).fetchall():
            yield from (Reference(*row) for row in rows)
            last = rows[-1][0]
