"""Blobs from one place to another, or only looked at: each is read once and held against its digest.

Memory is bounded, whatever their number and sizes.
"""

import hashlib
import math
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from rich.console import Console

from service.backup.errors import naming
from service.backup.wanted import Wanted
from service.errors import UnknownBlob
from service.store.blobs import MULTIPART_FROM, Blobs, BlobStream
from service.store.references import Reference

THREADS = 8  # each holds a blob of up to MULTIPART_FROM; a larger one goes through a temporary file
SAY_EVERY_S = 10.0


@dataclass(slots=True)
class Tally:
    """How far a command is, said now and then."""

    console: Console
    verb: str  # copied, checked
    total: int = 0  # blobs
    blobs: int = 0
    bytes: int = 0
    lacks: dict[str, str] = field(default_factory=dict)  # keys, and what is wrong with each
    said_at: float = field(default_factory=time.monotonic)

    def add(self, key: str, size: int, wrong: str | None) -> None:
        self.blobs += 1
        self.bytes += size
        if wrong is not None:
            self.lacks[key] = wrong
        if time.monotonic() - self.said_at >= SAY_EVERY_S:
            self.said_at = time.monotonic()
            self.say()

    def say(self) -> None:
        line = f"{self.blobs:,} of {self.total:,} blobs {self.verb}, {self.bytes / 1e6:,.1f} MB"
        self.console.print(line, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class PrefixedBlobs:
    """Blobs under the keys that rows name, somewhere in a place that is named where it fails."""

    blobs: Blobs
    prefix: str = ""  # of all keys, with a slash at its end

    def open(self, key: str) -> BlobStream:
        """Raises: UnknownBlob, BackupFailed."""
        with naming(self.blobs.url):
            stream = self.blobs.open_stream(self.prefix + key)
        return BlobStream(size=stream.size, chunks=self._chunks(stream))

    def put(self, key: str, data: bytes | Path) -> None:
        """Raises: BackupFailed."""
        with naming(self.blobs.url):
            self.blobs.put_new(self.prefix + key, data)

    def mark(self, wanted: Wanted, before: float = math.inf) -> int:
        """Note which are here, and count others that are older. Raises: BackupFailed."""
        with naming(self.blobs.url):
            return wanted.mark(self.blobs.list(self.prefix), self.prefix, before)

    def _chunks(self, stream: BlobStream) -> Iterator[bytes]:
        with naming(self.blobs.url):
            yield from stream.chunks


def copy(wanted: Iterable[Reference], source: PrefixedBlobs, target: PrefixedBlobs, tally: Tally) -> None:
    """Copy blobs; those that are missing or damaged are noted and left out. Raises: BackupFailed."""

    def one(each: Reference) -> int:
        stream = source.open(each.key)
        if stream.size <= MULTIPART_FROM:
            data = b"".join(stream.chunks)
            _check(each, stream.size, len(data), hashlib.sha256(data).hexdigest())
            target.put(each.key, data)
        else:
            with tempfile.NamedTemporaryFile(prefix="polyhead-") as file:
                _check(each, stream.size, *_digest(stream.chunks, file))
                file.flush()
                target.put(each.key, Path(file.name))
        return stream.size

    _each(wanted, one, tally)


def check(wanted: Iterable[Reference], source: PrefixedBlobs, tally: Tally) -> None:
    """Read blobs, and note those that are missing or damaged. Raises: BackupFailed."""

    def one(each: Reference) -> int:
        stream = source.open(each.key)
        _check(each, stream.size, *_digest(stream.chunks))
        return stream.size

    _each(wanted, one, tally)


class _Wrong(Exception):
    """What is the matter with one blob."""


def _each(wanted: Iterable[Reference], one: Callable[[Reference], int], tally: Tally) -> None:
    with ThreadPoolExecutor(THREADS, thread_name_prefix="blobs") as threads:
        working = deque[tuple[str, Future[tuple[int, str | None]]]]()
        try:
            for each in wanted:
                working.append((each.key, threads.submit(_tried, one, each)))
                if len(working) > 2 * THREADS:
                    key, future = working.popleft()
                    tally.add(key, *future.result())
            for key, future in working:
                tally.add(key, *future.result())
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise


def _tried(one: Callable[[Reference], int], each: Reference) -> tuple[int, str | None]:
    try:
        return one(each), None
    except UnknownBlob:
        return 0, "is missing"
    except _Wrong as wrong:
        return 0, str(wrong)


def _digest(chunks: Iterator[bytes], file: IO[bytes] | None = None) -> tuple[int, str]:
    """Bytes and sha256 of a stream, which is written to a file on the way."""
    size, digest = 0, hashlib.sha256()
    for chunk in chunks:
        size += len(chunk)
        digest.update(chunk)
        if file is not None:
            file.write(chunk)
    return size, digest.hexdigest()


def _check(each: Reference, expected: int, size: int, digest: str) -> None:
    if size != expected:
        raise _Wrong(f"ends after {size} of {expected} bytes")
    if each.digest not in (None, digest):
        raise _Wrong(f"is damaged: its digest is {digest[:12]}…, and should be {str(each.digest)[:12]}…")
