"""One database, SQLite or PostgreSQL: its transactions, its clock, its upserts and what its failures mean.

All that differs between the two stands in this module, and in `notices`.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from models.errors import PolyheadError
from service.errors import InvalidField, StoreFull, StoreUnavailable

BUSY_TIMEOUT_S = 20  # SQLite: how long a writer waits for its turn
POOL_TIMEOUT_S = 10  # how long a thread waits for a connection
CHUNK = 500  # values in one IN list; both databases have a limit
DISK_FULL = "53100"  # PostgreSQL's SQLSTATE

SILENCE_S = 8  # PostgreSQL: how long a statement waits before it asks whether the server answers anybody

# A server that is gone without a word is given up on in seconds: libpq's own defaults are minutes.
PATIENCE = {
    "connect_timeout": "5",  # seconds
    "keepalives_idle": "5",  # seconds
    "keepalives_interval": "5",  # seconds
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",  # milliseconds
}


class database_clock(FunctionElement[float]):  # noqa: N801  # reads as SQL
    """Seconds since the epoch, UTC, on the database's clock: the one clock that all trainers share."""

    type = sa.Double()
    inherit_cache = True


@compiles(database_clock, "sqlite")
def _sqlite_clock(*_args: Any, **_options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"  # unixepoch('subsec') needs SQLite 3.42


@compiles(database_clock, "postgresql")
def _postgresql_clock(*_args: Any, **_options: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


def to_json(value: Any) -> str:
    """JSON as PostgreSQL takes it. Raises: InvalidField for NaN, infinity and what JSON has no word for."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (ValueError, TypeError) as error:
        raise InvalidField(f"a value can't be stored: {error}") from error


class Database:
    """Connections to one database; safe to share between threads, not across a fork."""

    def __init__(self, url: str, *, silence_s: float = SILENCE_S) -> None:
        self.engine = open_engine(url, silence_s=silence_s)
        # SQLite has one writer, and lets those who wait poll for their turn: some for seconds, while others
        # pass. Threads of one process queue here instead; between processes SQLite's own lock decides.
        self._turn = threading.Lock() if self.engine.dialect.name == "sqlite" else None
        self.reached = False  # by this process, at some time
        self._silent = False  # the last that was heard of the server is that it says nothing
        self._trial = threading.Lock()  # held by who waits for it then

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database and changes nothing.

        Raises: StoreUnavailable.
        """
        with translated(), self._connection() as connection:
            if connection.dialect.name == "postgresql":
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with connection.begin():
                yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is durable once the block has been left, and undone if it raises.

        Raises: StoreUnavailable, StoreFull; InvalidField for a value that can't be stored.
        """
        with translated(), self._my_turn(), self._connection() as connection:
            connection.execution_options(writes=True)
            with connection.begin():
                yield connection

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        """While the server is silent one caller waits for it, and the others are told at once.

        Each would keep a thread for as long as it waits, until none is left.
        """
        tries = self._silent
        if tries and not self._trial.acquire(blocking=False):
            raise StoreUnavailable
        try:
            with self._noting_silence():
                connection = self.engine.connect()
            self._silent, self.reached = False, True
        finally:
            if tries:
                self._trial.release()
        with self._noting_silence(), connection:
            yield connection

    @contextmanager
    def _noting_silence(self) -> Iterator[None]:
        try:
            yield
        except exc.DBAPIError as error:
            if _is_silence(error.orig):
                self._silent = True
            raise

    @contextmanager
    def _my_turn(self) -> Iterator[None]:
        if self._turn is None:
            yield
            return
        if not self._turn.acquire(timeout=BUSY_TIMEOUT_S):
            raise StoreUnavailable
        try:
            yield
        finally:
            self._turn.release()

    def ping(self) -> None:
        """Raises: StoreUnavailable."""
        with self.read() as connection:
            connection.execute(sa.select(database_clock()))

    def close(self) -> None:
        self.engine.dispose()


def open_engine(url: str, *, foreign_keys: bool = True, silence_s: float = SILENCE_S) -> Engine:
    """An engine whose SQLite connections are durable, and whose transactions begin as they are meant to."""
    if make_url(url).get_backend_name() != "sqlite":
        return _open_server(make_url(url), silence_s)
    path = sqlite_path(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(
        url, json_serializer=to_json, pool_size=10, max_overflow=30, pool_timeout=POOL_TIMEOUT_S,
        # autocommit: the driver begins nothing by itself, _begin_sqlite does
        connect_args={"timeout": BUSY_TIMEOUT_S, "isolation_level": None},
    )  # fmt: skip

    @event.listens_for(engine, "connect")
    def _configure_sqlite(connection: Any, _record: Any) -> None:
        connection.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")
        connection.execute("PRAGMA synchronous = FULL")  # in WAL mode, less may lose the last commits

    @event.listens_for(engine, "begin")
    def _begin_sqlite(connection: Connection) -> None:
        # A deferred transaction that turns to writing late fails when another has written meanwhile.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _open_server(url: sa.URL, silence_s: float) -> Engine:
    engine = sa.create_engine(
        _patient(url), json_serializer=to_json, pool_size=10, max_overflow=30,
        pool_timeout=POOL_TIMEOUT_S, pool_pre_ping=True,
    )  # fmt: skip
    if engine.dialect.driver == "psycopg":
        from service.store.silence import BoundedConnection  # noqa: PLC0415 - psycopg is an extra

        @event.listens_for(engine, "do_connect")
        def _connect(_dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
            return BoundedConnection.open(*arguments, silence_s=silence_s, **options)

    return engine


def _is_silence(error: BaseException | None) -> bool:
    return type(error).__name__ == "ConnectionTimeout"  # psycopg's; it may not be installed


def _patient(url: sa.URL) -> sa.URL:
    """What the URL says itself of these options counts."""
    if not url.get_driver_name().startswith("psycopg"):
        return url
    return url.update_query_dict(
        {option: value for option, value in PATIENCE.items() if option not in url.query}
    )


def sqlite_path(url: str) -> Path:
    """Raises: ValueError for a database in memory, which processes can't share."""
    path = make_url(url).database
    if not path or path == ":memory:":
        raise ValueError(f"{url} is a database in memory: give it a file")
    return Path(path)


def lock_name(connection: Connection, name: str) -> None:
    """Wait for whoever has locked this name, until their transaction ends; SQLite's has one writer anyway."""
    if connection.dialect.name == "postgresql":
        key = sa.func.hashtextextended(name, 0)
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(key)))


def insert(connection: Connection, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT with `on_conflict_do_nothing` and `on_conflict_do_update`, the same in both dialects."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


@contextmanager
def translated() -> Iterator[None]:
    """Give the database's failures the service's names."""
    try:
        yield
    except (exc.DBAPIError, exc.StatementError, exc.TimeoutError, UnicodeError, OverflowError) as error:
        if isinstance(error, exc.IntegrityError | exc.ProgrammingError):
            raise  # a mistake of ours, not the database's state
        raise _meaning(error) from error


def _meaning(error: Exception) -> PolyheadError:
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, PolyheadError):
        return cause
    if isinstance(error, exc.DataError) or isinstance(cause, ValueError | OverflowError):
        return InvalidField(f"a value can't be stored: {str(cause).splitlines()[0]}")
    if "disk is full" in str(cause) or getattr(cause, "sqlstate", None) == DISK_FULL:
        return StoreFull()
    return StoreUnavailable()
