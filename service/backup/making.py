"""Making a backup: the rows of one moment first, then the blobs that they name, then the manifest.

In this order every blob is there when it is copied: it was put before its row, and stays for a grace time
after. Where one is gone nevertheless, an archive whose import has ended, the rows are read once more.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.console import Console

from service.backup.copying import PrefixedBlobs, Tally, copy
from service.backup.errors import BackupFailed, naming
from service.backup.manifest import Manifest, Part
from service.backup.place import BLOBS, Place, folder_of
from service.backup.rows import dump
from service.backup.source import Source
from service.backup.wanted import Wanted
from service.store.references import Reference
from service.store.schema import revision_of

ATTEMPTS = 5  # at rows none of whose blobs is taken away meanwhile


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """Rows that were written, of a backup that isn't whole yet."""

    id: str
    schema: str
    began_at: str
    parts: tuple[Part, ...]


def back_up(source: Source, place: Place, console: Console) -> Manifest:
    """Back up everything; blobs that are in the place already, of an earlier backup, are left as they are.

    Returns: what there is now, with the blobs that could not be had.
    Raises:  BackupFailed.
    """
    for _ in range(ATTEMPTS):
        with Wanted() as wanted:
            draft = _write_rows(source, place, wanted)
            rows = sum(part.rows for part in draft.parts)
            console.print(f"{rows:,} rows, which name {len(wanted):,} blobs", soft_wrap=True)
            lacks = _copy_blobs(source, place, wanted, console)
            if lacks.keys() <= source.still_named(lacks):
                manifest = Manifest(
                    id=draft.id,
                    schema=draft.schema,
                    began_at=draft.began_at,
                    finished_at=_said(datetime.now(UTC)),
                    parts=draft.parts,
                    blobs=len(wanted),
                    lacks=lacks,
                )
                place.finish(manifest)
                return manifest
        console.print("blobs were deleted meanwhile: reading the rows again", soft_wrap=True)
        with naming(place.where):
            place.blobs.delete_prefix(folder_of(draft.id))
    raise BackupFailed("blobs are deleted faster than they are copied: set a longer POLYHEAD_BLOB_GRACE_S")


def _write_rows(source: Source, place: Place, wanted: Wanted) -> _Draft:
    now = datetime.now(UTC)
    id_ = now.strftime("%Y%m%dT%H%M%S-%f")
    parts = list[Part]()

    def named() -> Iterator[Reference]:
        for part, references in dump(connection, place, id_):
            parts.append(part)
            yield from references

    with naming("the database"), source.database.read() as connection:
        schema = str(revision_of(connection))
        wanted.add(named())
    return _Draft(id=id_, schema=schema, began_at=_said(now), parts=tuple(parts))


def _copy_blobs(source: Source, place: Place, wanted: Wanted, console: Console) -> dict[str, str]:
    """Returns: those that could not be had, and why."""
    held = PrefixedBlobs(place.blobs, BLOBS)
    held.mark(wanted)
    tally = Tally(console, "copied", total=wanted.count(there=False))
    copy(wanted.blobs(there=False), PrefixedBlobs(source.blobs), held, tally)
    tally.say()
    return tally.lacks


def _said(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
