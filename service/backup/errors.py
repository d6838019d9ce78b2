"""What ends a backup, a restore or a check, each in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from models.errors import PolyheadError
from service.errors import StoreFull, StoreUnavailable


class BackupFailed(PolyheadError):
    """One line that says why the command could not do its work."""


class DamagedBackup(BackupFailed):
    """A part of a backup is missing, or isn't what was written."""


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Say which place can't be reached, and why."""
    try:
        yield
    except (StoreUnavailable, StoreFull) as error:
        said = str(error.__cause__ or error).strip().splitlines() or [type(error.__cause__).__name__]
        raise BackupFailed(f"can't use {what}: {said[0][:300]}") from error
