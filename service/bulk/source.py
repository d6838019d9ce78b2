"""Images in a folder or an object store: listed in an order that stays, read one by one up to a size."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError

from models.errors import PolyheadError
from service.layouts import IMAGE_SUFFIXES, is_hidden
from service.store.blobs import object_store

LISTED = 1000  # objects of one answer of an object store


class SourceUnavailable(PolyheadError):
    """The images can't be listed, or the store that has them doesn't answer."""


class UnreadableFile(PolyheadError):
    """One file that can't be read, whatever becomes of the others."""


class FileTooLarge(UnreadableFile):
    def __init__(self, *, size: int, limit: int) -> None:
        super().__init__(f"the file has {size} bytes, more than the {limit} allowed")


@dataclass(frozen=True, slots=True)
class Found:
    """A file as it was listed."""

    path: str  # relative to the source, with slashes
    size: int  # bytes
    modified: str  # any text that changes when the file does


class Source:
    """Safe to share between threads."""

    def __init__(self, url: str) -> None:
        """Raises: SourceUnavailable."""
        self.url = url
        self._folder = Path(unquote(urlsplit(url).path)) if urlsplit(url).scheme == "file" else None
        self._store: Any = None
        if self._folder is None:
            with _explained(url):
                self._store = object_store(url)
        elif not self._folder.is_dir():
            raise SourceUnavailable(f"{self._folder} is no folder")

    def images(self, *, any_name: bool = False) -> Iterator[Found]:
        """List the images, in an order that is the same the next time. No list of all is held.

        Args:   any_name: also files whose names don't end like those of images.
        Raises: SourceUnavailable.
        """
        for found in self._listed() if self._folder is None else self._walked(self._folder):
            if any_name or (
                PurePosixPath(found.path).suffix.lower() in IMAGE_SUFFIXES and not is_hidden(found.path)
            ):
                yield found

    def read(self, path: str, *, most_bytes: int) -> bytes:
        """The bytes of a file, whose size is asked before they are.

        Raises: UnreadableFile: this one can't be had. SourceUnavailable: none can.
        """
        return self._got(path, most_bytes) if self._folder is None else self._opened(path, most_bytes)

    def _walked(self, folder: Path) -> Iterator[Found]:
        def refuse(error: OSError) -> None:
            raise SourceUnavailable(f"can't list {error.filename}: {error.strerror}") from error

        # Links to folders are not followed: they may lead in circles.
        for at, folders, names in os.walk(folder, onerror=refuse):
            folders.sort()
            for name in sorted(names):
                path = Path(at) / name
                try:
                    said = path.stat()
                except OSError:  # a link to nothing, or deleted meanwhile
                    continue
                yield Found(path.relative_to(folder).as_posix(), said.st_size, str(said.st_mtime_ns))

    def _listed(self) -> Iterator[Found]:
        # S3, GCS and Azure list in the order of the names.
        with _explained(self.url):
            for answer in obstore.list(self._store, chunk_size=LISTED):
                for each in answer:
                    yield Found(each["path"], each["size"], each["last_modified"].isoformat())

    def _opened(self, path: str, most_bytes: int) -> bytes:
        assert self._folder is not None
        try:
            with (self._folder / path).open("rb") as file:
                _check_size(os.fstat(file.fileno()).st_size, most_bytes)
                return file.read(most_bytes)
        except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
            raise UnreadableFile(f"the file can't be read: {error.strerror}") from error
        except OSError as error:
            raise SourceUnavailable(f"can't read {path}: {error.strerror}") from error

    def _got(self, path: str, most_bytes: int) -> bytes:
        with _explained(self.url):
            try:
                answer = obstore.get(self._store, path)
            except (NotFoundError, FileNotFoundError) as error:
                raise UnreadableFile("the file can't be read: it is gone") from error
            except (PermissionDeniedError, PermissionError) as error:
                raise UnreadableFile("the file can't be read: permission denied") from error
            _check_size(int(answer.meta["size"]), most_bytes)
            return bytes(answer.bytes())


def _check_size(size: int, limit: int) -> None:
    """Raises: FileTooLarge."""
    if size > limit:
        raise FileTooLarge(size=size, limit=limit)


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Give an object store's failures one line, with its own reason."""
    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        lines = str(error).strip().splitlines()
        reason = lines[0][:300] if lines else type(error).__name__
        raise SourceUnavailable(f"can't read {url}: {reason}") from error
