"""Restoring a backup into an empty database and an empty store: blobs first, then all rows at once.

So nothing is served whose bytes aren't there, and a restore that was interrupted has left blobs alone, marked
with the backup that they are from: the next one of the same backup goes on.
"""

import json
from dataclasses import replace

import sqlalchemy as sa
from rich.console import Console

from service.backup.copying import PrefixedBlobs, Tally, copy
from service.backup.errors import BackupFailed, naming
from service.backup.manifest import Manifest
from service.backup.place import BLOBS, Place
from service.backup.rows import check_empty, load, named
from service.backup.wanted import Wanted
from service.errors import UnknownBlob
from service.store import migrate
from service.store.blobs import Blobs
from service.store.database import Database
from service.store.schema import known_revisions, revision_of

MARK = "restoring.json"  # beside the blobs, while they are copied


def restore(place: Place, backup: str | None, database_url: str, blob_url: str, console: Console) -> Manifest:
    """Restore a backup, or the newest.

    Returns: what it was, with the blobs that could not be had.
    Raises:  BackupFailed, DamagedBackup: nothing was changed but blobs in a store that was empty.
    """
    manifest = place.manifest(backup)
    if manifest.schema not in known_revisions():
        raise BackupFailed(f"backup {manifest.id} is of a newer version: its schema is {manifest.schema}")
    _check_database(database_url)
    with naming(blob_url):
        blobs = Blobs(blob_url)
        _claim(blobs, manifest)
    lacks = _copy_blobs(place, manifest, blobs, console)
    _load(place, manifest, database_url)
    with naming(blob_url):
        blobs.delete(MARK)
    rows = sum(part.rows for part in manifest.parts)
    console.print(f"backup {manifest.id} is restored: {rows:,} rows", soft_wrap=True)
    return replace(manifest, lacks=lacks)


def _check_database(url: str) -> None:
    """Raises: BackupFailed: something is in it."""
    database = Database(url)
    try:
        with naming("the database"), database.read() as connection:
            found = revision_of(connection)
            if found is None and sa.inspect(connection).get_table_names():
                raise BackupFailed("the database isn't empty: it has tables that aren't Polyhead's")
            if found is not None and found not in known_revisions():
                raise BackupFailed(f"the database's schema {found} is of a newer version")
            check_empty(connection)
    finally:
        database.close()


def _claim(blobs: Blobs, manifest: Manifest) -> None:
    """Mark the store as being filled from a backup. Raises: BackupFailed: something else is in it."""
    mark = json.dumps({"backup": manifest.id}).encode()
    try:
        if blobs.get(MARK) == mark:
            return
    except UnknownBlob:
        if blobs.is_empty():
            blobs.put_new(MARK, mark)
            return
    raise BackupFailed(f"{blobs.url} isn't empty: restore into a new folder or bucket")


def _copy_blobs(place: Place, manifest: Manifest, blobs: Blobs, console: Console) -> dict[str, str]:
    with Wanted() as wanted:
        wanted.add(named(place, manifest))
        held = PrefixedBlobs(blobs)
        held.mark(wanted)
        tally = Tally(console, "restored", total=wanted.count(there=False))
        copy(wanted.blobs(there=False), PrefixedBlobs(place.blobs, BLOBS), held, tally)
        tally.say()
        return tally.lacks


def _load(place: Place, manifest: Manifest, url: str) -> None:
    with naming("the database"):
        migrate(url, manifest.schema)  # the tables as they were
        database = Database(url)
        try:
            with database.write() as connection:
                load(connection, place, manifest)
        finally:
            database.close()
        migrate(url)
