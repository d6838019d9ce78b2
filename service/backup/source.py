"""The store that a deployment works on, as a backup or a check finds it: nothing in it is changed."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service.backup.errors import BackupFailed, naming
from service.settings import Settings
from service.store.blobs import Blobs
from service.store.database import Database, sqlite_path
from service.store.references import references
from service.store.schema import check_schema


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    database: Database
    blobs: Blobs

    def still_named(self, keys: Collection[str]) -> set[str]:
        """Those of them that rows name now. Raises: BackupFailed."""
        if not keys:
            return set()
        with naming("the database"), self.database.read() as connection:
            return {each.key for each in references(connection) if each.key in keys}


@contextmanager
def open_source(settings: Settings) -> Iterator[Source]:
    """Raises: BackupFailed; NotReady: the schema isn't this version's, so that more may be there."""
    url = settings.resolved_database_url
    if url.startswith("sqlite") and not sqlite_path(url).exists():
        raise BackupFailed(f"there is no database {sqlite_path(url)}")
    database = Database(url)
    try:
        with naming("the database"):
            check_schema(database, exactly=True)
        with naming(settings.resolved_blob_url):
            blobs = Blobs(settings.resolved_blob_url)
        yield Source(database=database, blobs=blobs)
    finally:
        database.close()
