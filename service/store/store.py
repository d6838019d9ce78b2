"""The store: one database and one place for blobs, opened once in each process."""

from dataclasses import dataclass

import structlog

from service.errors import StoreUnavailable
from service.store.aliases import Aliases
from service.store.api_keys import ApiKeys
from service.store.blobs import Blobs
from service.store.database import Database
from service.store.embeddings import Embeddings
from service.store.examples import Examples
from service.store.idempotency import Idempotency
from service.store.quotas import UNLIMITED, Quotas
from service.store.records import Run
from service.store.runs import Runs
from service.store.tasks import Tasks
from service.store.versions import Versions

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Every method is one transaction, blocks (call it in a thread) and is safe in many threads."""

    database: Database
    blobs: Blobs
    tasks: Tasks
    examples: Examples
    embeddings: Embeddings
    runs: Runs
    versions: Versions
    aliases: Aliases
    idempotency: Idempotency
    api_keys: ApiKeys

    def discard_archive(self, run: Run) -> None:
        """Delete the archive of a run that has ended, if it was an import's.

        It is only space, so that a store out of reach is a line in the log and not the caller's failure.
        """
        if run.kind != "import":
            return
        try:
            self.blobs.delete(run.options["archive"])
        except StoreUnavailable as error:
            log.warning("an archive is left over", run=run.id, reason=str(error))

    def ping(self) -> None:
        """Raises: StoreUnavailable when the database or the blobs are out of reach."""
        self.database.ping()
        self.blobs.ping()

    def close(self) -> None:
        self.database.close()


def open_store(database_url: str, blob_url: str, quotas: Quotas = UNLIMITED) -> Store:
    """Open a store whose schema is up to date (`migrate`, `check_schema`). Not across a fork.

    Raises: StoreUnavailable for blobs that can't be opened; the database is first reached when it is used.
    """
    database = Database(database_url)
    return Store(
        database=database,
        blobs=Blobs(blob_url),
        tasks=Tasks(database, quotas),
        examples=Examples(database, quotas),
        embeddings=Embeddings(database),
        runs=Runs(database, quotas),
        versions=Versions(database),
        aliases=Aliases(database),
        idempotency=Idempotency(database),
        api_keys=ApiKeys(database),
    )
