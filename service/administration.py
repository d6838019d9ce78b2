"""What an operator does on the store itself, without the service: make, list and revoke API keys."""

import json
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from models.errors import PolyheadError
from service.processes.preflight import check_folders
from service.settings import Settings
from service.store import check_schema, migrate
from service.store.api_keys import ApiKeys
from service.store.database import Database
from service.store.records import SCOPES, ApiKey
from service.store.tokens import Peppers, Token, UnusablePeppers, make_peppers, read_peppers
from service.telemetry import AUDIT

Json = dict[str, Any]

log = structlog.stdlib.get_logger(AUDIT)


class UnusableKey(PolyheadError):
    """One line that says why a text is no key to be kept."""


def create(
    settings: Settings,
    *,
    name: str,
    scopes: Collection[str],
    tenant: str,
    requests_per_minute: int | None = None,
    source: Path | None = None,
) -> tuple[Token, ApiKey | None]:
    """Make a key, or keep one that was made elsewhere.

    Args:    source: a file with the key, `-` for standard input; None: a new one is made.
    Returns: the key as its owner holds it, and what is kept of it; None: it was there, and stays as it was.
    Raises:  UnusableKey, UnusablePeppers, InvalidField, NotReady, StoreUnavailable.
    """
    token = Token.new() if source is None else _read(source)
    with _opened(settings) as keys:
        if settings.key_peppers_file is None and settings.database_url is None:
            make_peppers(settings.resolved_key_peppers_file)
        peppers = _peppers(settings)
        key = ApiKey(
            id=token.id,
            tenant=tenant,
            name=name,
            scopes=tuple(scope for scope in SCOPES if scope in scopes),
            digest=peppers.digest(token, peppers.ids[0]),
            pepper=peppers.ids[0],
            created_at=time.time(),
            requests_per_minute=requests_per_minute,
        )
        if not keys.add(key):
            return token, None
        log.info("create_key", key=key.id, tenant=key.tenant, scopes=list(key.scopes))
        return token, key


def list_all(settings: Settings) -> list[Json]:
    """Every key, newest first, without what it is kept as. Raises: NotReady, StoreUnavailable."""
    with _opened(settings) as keys:
        found = keys.list()
    try:
        peppers = _peppers(settings).ids
    except UnusablePeppers:  # a list is what one looks at to find out
        peppers = ()
    return [shown(key, peppers) for key in found]


def revoke(settings: Settings, key_id: str) -> Json:
    """End a key; servers refuse it within a second. Raises: UnknownKey, NotReady, StoreUnavailable."""
    with _opened(settings) as keys:
        key = keys.revoke(key_id, time.time())
    log.info("revoke_key", key=key.id, tenant=key.tenant)
    return shown(key, ())


def shown(key: ApiKey, peppers: Sequence[str]) -> Json:
    """What may be seen of a key. Args: peppers: ids of those that are known, the first for new keys."""
    said = asdict(key) | {
        moment: None if (at := getattr(key, moment)) is None else _time(at)
        for moment in ("created_at", "last_used_at", "revoked_at")
    }
    del said["digest"]
    place = peppers.index(key.pepper) if key.pepper in peppers else None
    return said | {"pepper": "unknown" if place is None else "old" if place else "current"}


def print_keys(keys: Sequence[Json], *, as_json: bool) -> None:
    if as_json:
        print_json({"data": list(keys)})
        return
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("id", no_wrap=True)  # to be copied
    for column in ("name", "tenant", "scopes", "last used", "state"):
        table.add_column(column, overflow="fold")
    for key in keys:
        used = (key["last_used_at"] or "never").partition("T")[0]
        table.add_row(key["id"], key["name"], key["tenant"], " ".join(key["scopes"]), used, state_of(key))
    # What isn't read by people is not folded for them.
    width = None if sys.stdout.isatty() else 200
    Console(markup=False, highlight=False, emoji=False, width=width).print(table)


def state_of(key: Json) -> str:
    """In a word, what JSON says in two fields."""
    if key["revoked_at"] is not None:
        return "revoked"
    return {"current": "valid", "old": "old pepper", "unknown": "lost pepper"}[key["pepper"]]


def print_json(said: Json) -> None:
    sys.stdout.write(json.dumps(said, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def _opened(settings: Settings) -> Iterator[ApiKeys]:
    """The keys of the store, whose schema is up to date: an embedded one is brought there."""
    url = settings.resolved_database_url
    if settings.database_url is None:
        check_folders(settings)
    if url.startswith("sqlite"):
        migrate(url)
    database = Database(url)
    try:
        check_schema(database)
        yield ApiKeys(database)
    finally:
        database.close()


def _peppers(settings: Settings) -> Peppers:
    path = settings.resolved_key_peppers_file
    if settings.key_peppers_file is None and not path.exists():
        raise UnusablePeppers(
            "POLYHEAD_KEY_PEPPERS_FILE has to name a file that all servers of this database share, with 32 "
            "random characters or more, such as `openssl rand -hex 32` prints"
        )
    return read_peppers(path)


def _read(source: Path) -> Token:
    try:
        text = sys.stdin.read() if str(source) == "-" else source.read_text("utf-8")
    except OSError as error:
        raise UnusableKey(f"can't read {source}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UnusableKey(f"{source} is not UTF-8") from error
    token = Token.parse(text.strip())
    if token is None:
        raise UnusableKey(
            f"{source} holds no key: ph_, 26 hex digits, _ and 64 hex digits, all in lower case"
        )
    return token


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
