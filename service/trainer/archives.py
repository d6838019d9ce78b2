"""Reading the archives that strangers send: zip, tar and tar.gz, within bounds, and never onto a path.

`open_archive` reads the listing and refuses hostile archives as a whole, before anything is stored;
what is wrong with one member stays with that member. Non-goals: writing, other formats, self-extracting zips.
"""

import gzip
import io
import re
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, Protocol, cast

from service.errors import InvalidArchive

PATH_CHARACTERS = 1024
DOCUMENT_BYTES = 32 * 2**20  # of all documents together, which are held in memory
EXPANSION = 200  # images hardly compress: beyond this share, and 64 MiB, an archive is a bomb
SMALL_BYTES = 64 * 2**20
HEADER_BYTES = 64 * 2**10  # between two tar members; pax headers are read to memory whole
UNREADABLE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,  # a name that can't be decoded, an offset out of the file
    OSError,  # gzip.BadGzipFile, and a seek to before the start
    OverflowError,
    NotImplementedError,  # a zip of a later specification
    RecursionError,  # headers of headers
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    members: int
    unpacked_bytes: int  # of all members together
    member_bytes: int = 64 * 2**20

    def unpacked_of(self, archive_bytes: int) -> int:
        return min(self.unpacked_bytes, max(SMALL_BYTES, EXPANSION * archive_bytes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file of an archive. Folders, hidden files and `__MACOSX` are no members."""

    index: int  # its place among all entries of the archive
    path: str  # relative, with `/`, without `.` and `..`, in Unicode's form NFC
    size: int  # bytes, unpacked, as the archive says
    error: InvalidArchive | None  # why it can't be read


class Archive(Protocol):
    members: tuple[Member, ...]
    documents: dict[str, bytes]  # the content of the members that `is_document` chose, by path

    def contents(self, wanted: Collection[int]) -> Iterator[tuple[int, bytes | InvalidArchive]]:
        """The wanted members by index, in the archive's order, one at a time in memory."""
        ...


def open_archive(path: Path, limits: Limits, is_document: Callable[[str], bool]) -> Archive:
    """Read an archive's listing and its documents.

    Args:    path: a file of ours; `is_document`: chooses the members whose content is kept, by path.
    Raises:  InvalidArchive: neither zip nor tar, damaged, or hostile (a path that leads out of it, a bomb).
    """
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        raise InvalidArchive("the archive is empty")
    try:
        if start in (b"PK\x03\x04", b"PK\x05\x06"):
            return _ZipArchive(path, limits, is_document)
        return _TarArchive(path, limits, is_document, gzipped=start.startswith(b"\x1f\x8b"))
    except UNREADABLE as error:
        raise InvalidArchive(
            f"the archive is no zip, tar or tar.gz, or it is damaged or cut off: {error}"
        ) from error


class _Listing:
    """Collects members and keeps count against the limits."""

    def __init__(self, limits: Limits, archive_bytes: int) -> None:
        self.limits = limits
        self.left = limits.unpacked_of(archive_bytes)
        self.entries = 0
        self.members: list[Member] = []

    def add(self, name: str, size: int, *, is_file: bool, error: str | None) -> Member | None:
        """Note one entry; None where it is no member."""
        index = self.entries
        self.entries += 1
        self.left -= size
        if self.entries > self.limits.members:
            raise InvalidArchive(f"the archive has more than the {self.limits.members} members allowed")
        if size < 0 or self.left < 0:
            raise InvalidArchive("the archive unpacks to more than is allowed for its size")
        path = _safe_path(name)
        hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))
        if (not is_file and error is None) or hidden or not path:
            return None
        if size > self.limits.member_bytes:
            error = f"it is larger than the {self.limits.member_bytes} bytes allowed for one file"
        if not path.isprintable() or len(path) > PATH_CHARACTERS:
            path = printable(path)
            error = error or "its name is too long, or holds characters that can't be shown"
        said = InvalidArchive(f"{path}: {error}") if error else None
        self.members.append(Member(index=index, path=path, size=size, error=said))
        return self.members[-1]


def printable(name: str) -> str:
    """A name of any origin as it may be stored and shown."""
    return "".join(each if each.isprintable() else "�" for each in name[:PATH_CHARACTERS])


def _safe_path(name: str) -> str:
    """A member's name as a relative path; hostile ones condemn the archive, since no tool makes them."""
    name = name.replace("\\", "/")  # some Windows tools write these, and they must not hide a `..`
    parts = name.split("/")
    if name.startswith("/") or re.match(r"[A-Za-z]:/", name) or ".." in parts:
        raise InvalidArchive(f"the archive's member {name[:PATH_CHARACTERS]!r} leads out of it")
    # macOS writes accents as characters of their own; a label typed by hand has none of these
    return unicodedata.normalize("NFC", "/".join(part for part in parts if part not in ("", ".")))


class _Documents:
    """The documents' content, bounded in sum."""

    def __init__(self) -> None:
        self.left = DOCUMENT_BYTES
        self.found: dict[str, bytes] = {}

    def add(self, member: Member, content: bytes) -> None:
        self.left -= len(content)
        if self.left < 0:
            raise InvalidArchive(f"the archive's metadata is larger than {DOCUMENT_BYTES} bytes")
        self.found[member.path] = content


class _BoundedFile(io.FileIO):
    """A zip file whose central directory, which zipfile reads in one go, is bounded."""

    def __init__(self, path: Path, limits: Limits) -> None:
        super().__init__(path)
        self._limits = limits

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self._limits.members * 256 + 2**20:
            raise InvalidArchive("the archive's directory is larger than is allowed")
        data = super().read(size)
        if data.count(b"PK\x01\x02") > self._limits.members:  # one opens each entry
            raise InvalidArchive(f"the archive has more than the {self._limits.members} members allowed")
        return data


class _ZipArchive:
    def __init__(self, path: Path, limits: Limits, is_document: Callable[[str], bool]) -> None:
        self._path = path
        self._limits = limits
        listing = _Listing(limits, path.stat().st_size)
        documents = _Documents()
        with self._open() as archive:
            for info in archive.infolist():
                member = listing.add(
                    info.filename,
                    info.file_size,
                    is_file=not info.filename.endswith("/"),
                    error=_zip_member_error(info),
                )
                if member and member.error is None and is_document(member.path):
                    documents.add(member, archive.read(info))
        self.members = tuple(listing.members)
        self.documents = documents.found

    def contents(self, wanted: Collection[int]) -> Iterator[tuple[int, bytes | InvalidArchive]]:
        with self._open() as archive:
            for index, info in enumerate(archive.infolist()):
                if index in wanted:
                    try:
                        yield index, archive.read(info)
                    except UNREADABLE as error:
                        yield index, InvalidArchive(f"{info.filename}: it is damaged: {error}")

    @contextmanager
    def _open(self) -> Iterator[zipfile.ZipFile]:
        with _BoundedFile(self._path, self._limits) as file:
            try:  # macOS writes UTF-8 without saying so
                archive = zipfile.ZipFile(file, metadata_encoding="utf-8")
            except UnicodeDecodeError:
                archive = zipfile.ZipFile(file)
            with archive:
                yield archive


def _zip_member_error(info: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "it is a link or a device, which are not followed"
    if info.flag_bits & 0x41:
        return "it is encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "it is compressed by a method that is not read here"
    return None


class _TarStream:
    """Forward-only bytes of a tar that stop when one step takes more than it may."""

    def __init__(self, source: "gzip.GzipFile | BufferedReader") -> None:
        self._source = source
        self._left = 0

    def allow(self, size: int) -> None:
        self._left = size

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise InvalidArchive("the archive has a header that is larger than is allowed")
        return data


class _TarArchive:
    def __init__(
        self, path: Path, limits: Limits, is_document: Callable[[str], bool], *, gzipped: bool
    ) -> None:
        self._path = path
        self._gzipped = gzipped
        listing = _Listing(limits, path.stat().st_size)
        documents = _Documents()
        with self._entries() as entries:
            for info, read in entries:
                member = listing.add(
                    info.name, info.size, is_file=not info.isdir(), error=_tar_member_error(info)
                )
                if member and member.error is None and is_document(member.path):
                    documents.add(member, read())
        self.members = tuple(listing.members)
        self.documents = documents.found

    def contents(self, wanted: Collection[int]) -> Iterator[tuple[int, bytes | InvalidArchive]]:
        try:
            with self._entries() as entries:
                for index, (_, read) in enumerate(entries):
                    if index in wanted:
                        yield index, read()
        except UNREADABLE as error:  # it could be read a moment ago
            raise InvalidArchive(f"the archive is damaged: {error}") from error

    @contextmanager
    def _entries(self) -> Iterator[Iterator[tuple[tarfile.TarInfo, Callable[[], bytes]]]]:
        with self._path.open("rb") as file:
            yield self._walk(_TarStream(gzip.GzipFile(fileobj=file) if self._gzipped else file))

    def _walk(self, stream: _TarStream) -> Iterator[tuple[tarfile.TarInfo, Callable[[], bytes]]]:
        stream.allow(HEADER_BYTES)
        # A stream, since seeking back in a gzip starts over at its beginning.
        with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|", encoding="utf-8") as archive:
            while (info := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # else it remembers each, a kilobyte at a time
                stream.allow(info.size + HEADER_BYTES)
                yield info, lambda info=info: _tar_content(archive, info)  # type: ignore[misc]


def _tar_content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(info)
    return file.read() if file else b""


def _tar_member_error(info: tarfile.TarInfo) -> str | None:
    if info.isdir():
        return None
    if not info.isreg():
        return "it is a link or a device, which are not followed"
    if info.issparse():
        return "it is a sparse file, which is not read here"
    return None
