"""Whether every blob that the rows name is there with the bytes that it should have: live, or in a backup."""

import math
import time
from dataclasses import dataclass

from rich.console import Console

from service.backup.copying import PrefixedBlobs, Tally, check
from service.backup.errors import naming
from service.backup.place import BLOBS, Place
from service.backup.rows import named
from service.backup.source import Source
from service.backup.wanted import Wanted
from service.store.references import references


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    blobs: int  # that rows name
    others: int  # that none does
    lacks: dict[str, str]  # what is wrong with which


def verify_live(source: Source, console: Console) -> Verified:
    """Raises: BackupFailed."""
    began = time.time()
    with Wanted() as wanted:
        with naming("the database"), source.database.read() as connection:
            wanted.add(references(connection))
        found = _verify(wanted, PrefixedBlobs(source.blobs), began, console)
    still = source.still_named(found.lacks)  # others were deleted meanwhile
    lacks = {key: wrong for key, wrong in found.lacks.items() if key in still}
    return Verified(blobs=found.blobs, others=found.others, lacks=lacks)


def verify_backup(place: Place, backup: str | None, console: Console) -> Verified:
    """Raises: BackupFailed, DamagedBackup: its rows are damaged."""
    manifest = place.manifest(backup)
    console.print(f"backup {manifest.id}, begun at {manifest.began_at}", soft_wrap=True)
    with Wanted() as wanted:
        wanted.add(named(place, manifest))
        return _verify(wanted, PrefixedBlobs(place.blobs, BLOBS), math.inf, console)


def _verify(wanted: Wanted, held: PrefixedBlobs, before: float, console: Console) -> Verified:
    others = held.mark(wanted, before)
    tally = Tally(console, "checked", total=len(wanted))
    for each in wanted.blobs(there=False):
        tally.add(each.key, 0, "is missing")
    check(wanted.blobs(there=True), held, tally)
    tally.say()
    return Verified(blobs=len(wanted), others=others, lacks=tally.lacks)
