"""Blobs: immutable bytes under a key, in a local folder or an object store, by URL.

A key names its content (a digest) or is used once, so a blob never changes. What `put_new` has returned from
is durable.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, from_url

from models.errors import PolyheadError
from service.errors import StoreFull, StoreUnavailable, UnknownBlob

STREAM_CHUNK = 1024 * 1024  # bytes
MULTIPART_FROM = 16 * 1024 * 1024  # bytes: larger files are uploaded in parts, never held in memory
KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|specified bucket does not exist")
NO_SPACE = re.compile(r"os error (27|28|122)\b")  # EFBIG, ENOSPC, EDQUOT


def as_url(place: str) -> str:
    """A folder's path, or a URL, as a URL without a slash at its end."""
    return place.rstrip("/") if "://" in place else Path(place).resolve().as_uri()


def object_store(url: str) -> Any:
    """A client of the object store at a URL, which is first reached when it is used."""
    return from_url(
        url,
        client_options={
            "allow_http": True,
            "connect_timeout": "5s",
            # Of one that takes a request and says nothing; the bytes of the largest put go in well below it.
            "read_timeout": "15s",
            "timeout": "600s",
        },
        retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=15)},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    key: str
    size: int  # bytes
    modified_at: float  # seconds since the epoch, UTC


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobStream:
    size: int  # bytes
    chunks: Iterator[bytes]  # raises StoreUnavailable


class Blobs:
    """Safe to share between threads."""

    def __init__(self, url: str) -> None:
        """Raises: StoreUnavailable."""
        self.url = url
        self._folder: Folder | None = None
        with _translated(url):
            if urlsplit(url).scheme == "file":
                self._folder = Folder(Path(unquote(urlsplit(url).path)), flush)
                self._store: Any = LocalStore(self._folder.root)
            else:
                self._store = object_store(url)

    def put_new(self, key: str, data: bytes | Path) -> None:
        """Store bytes, or a file's, durably; bytes that are there already are left alone.

        Raises: StoreFull, StoreUnavailable.
        """
        with _translated(key):
            if isinstance(data, Path) and data.stat().st_size > MULTIPART_FROM:
                # Uploads in parts can't be conditional. Such keys are used once.
                obstore.put(self._store, _checked(key), data, max_concurrency=4)
            else:
                self._put_small(_checked(key), data if isinstance(data, bytes) else data.read_bytes())
            if self._folder is not None:
                self._folder.sync(key)

    def get(self, key: str) -> bytes:
        """Raises: UnknownBlob, StoreUnavailable."""
        with _translated(key):
            return bytes(obstore.get(self._store, _checked(key)).bytes())

    def size(self, key: str) -> int:
        """Bytes. Raises: UnknownBlob, StoreUnavailable."""
        with _translated(key):
            return int(obstore.head(self._store, _checked(key))["size"])

    def open_stream(self, key: str) -> BlobStream:
        """A blob that may be larger than memory. Raises: UnknownBlob, StoreUnavailable."""
        with _translated(key):
            found = obstore.get(self._store, _checked(key))
            return BlobStream(size=int(found.meta["size"]), chunks=_chunks(key, found))

    def delete(self, key: str) -> None:
        """One that isn't there is fine. Raises: StoreUnavailable."""
        with _translated(key):
            try:
                obstore.delete(self._store, _checked(key))
            except FileNotFoundError:
                return

    def delete_prefix(self, prefix: str) -> None:
        """Delete all that lies under `prefix`, which ends with a slash. Raises: StoreUnavailable."""
        if not prefix.endswith("/"):
            raise ValueError(f"{prefix!r} would match the beginnings of other names")
        with _translated(prefix):
            _checked(prefix.rstrip("/"))
            for listed in obstore.list(self._store, prefix, chunk_size=1000):
                obstore.delete(self._store, [found["path"] for found in listed])
            if self._folder is not None:
                self._folder.remove(prefix)

    def names(self) -> set[str]:
        """All that lies directly here, not in a folder below. Raises: StoreUnavailable."""
        with _translated("names"):
            return {str(found["path"]) for found in obstore.list_with_delimiter(self._store)["objects"]}

    def is_empty(self) -> bool:
        """Raises: StoreUnavailable."""
        return next(self.list(), None) is None

    def folders(self, prefix: str = "") -> set[str]:
        """The paths directly under `prefix` that have, or had, something below. Raises: StoreUnavailable."""
        with _translated(prefix):
            found = obstore.list_with_delimiter(self._store, prefix or None)["common_prefixes"]
            return {str(path).rstrip("/") for path in found}

    def list(self, prefix: str = "") -> Iterator[Listed]:
        """All that lies under `prefix`, which ends with a slash; what is of one folder comes in one piece.

        Raises: StoreUnavailable.
        """
        with _translated(prefix):
            for listed in obstore.list(self._store, prefix or None, chunk_size=1000):
                for found in listed:
                    yield Listed(
                        key=str(found["path"]),
                        size=int(found["size"]),
                        modified_at=found["last_modified"].timestamp(),
                    )

    def ping(self) -> None:
        """Raises: StoreUnavailable."""
        with _translated("ping"):
            next(iter(obstore.list(self._store, "ping/", chunk_size=1)), None)

    def _put_small(self, key: str, data: bytes) -> None:
        try:
            obstore.put(self._store, key, data, mode="create", use_multipart=False)
        except AlreadyExistsError:
            # Other bytes are what a loss of power has left of a put that was never acknowledged.
            if self.get(key) != data:
                obstore.put(self._store, key, data, use_multipart=False)


class Folder:
    """What obstore leaves undone in a local folder: it neither makes a file durable nor removes folders."""

    def __init__(self, root: Path, flush: Callable[[Path], None]) -> None:
        self.root = root.absolute()
        self._flush = flush
        made = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)  # users' images are nobody else's here
        for folder in made:
            flush(folder.parent)
        self._linked = {self.root, *self.root.parents}  # folders whose own entry in their parent is durable

    def sync(self, key: str) -> None:
        """Make a file durable, and the way that leads to it."""
        path = self.root / key
        self._flush(path)
        self._flush(path.parent)
        self._link(*path.parents)

    def _link(self, *folders: Path) -> None:
        """Once each: they stay, whatever is added to them."""
        for folder in folders:  # innermost first
            if folder in self._linked:
                break
            self._flush(folder.parent)
        self._linked |= set(folders)

    def remove(self, prefix: str) -> None:
        """Remove an emptied folder, and the halves of puts that were interrupted."""
        folder = self.root / prefix
        self._linked = {known for known in self._linked if not known.is_relative_to(folder)}
        shutil.rmtree(folder, ignore_errors=True)


def _checked(key: str) -> str:
    if not KEY.fullmatch(key):
        raise ValueError(f"{key!r} is no key of ours")
    return key


def _chunks(key: str, found: Any) -> Iterator[bytes]:
    with _translated(key):
        for chunk in found.stream(min_chunk_size=STREAM_CHUNK):
            yield bytes(chunk)


@contextmanager
def _translated(key: str) -> Iterator[None]:
    """Give the object store's failures the service's names."""
    try:
        yield
    except (BaseError, OSError) as error:
        raise _meaning(error, key) from error


def _meaning(error: Exception, key: str) -> PolyheadError:
    if isinstance(error, FileNotFoundError) and not NO_BUCKET.search(str(error)):
        return UnknownBlob(key)
    return StoreFull() if NO_SPACE.search(str(error)) else StoreUnavailable()


def flush(path: Path) -> None:
    """Return when a file's bytes, or a folder's entries, have reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
