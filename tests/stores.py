"""The two pairs that a store is tested on, fresh for each test: SQLite and a folder, PostgreSQL and S3."""

import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import pytest
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from service.store import migrate
from tests.engines import ACCESS, BUCKET, started

TEMPLATE = "migrated"
ONE_MACHINE, CLUSTER = "sqlite+folder", "postgresql+s3"  # in the tests' ids

# Tests of what only one of the two has.
on_one_machine = pytest.mark.parametrize("pair", [ONE_MACHINE], indirect=True)
on_a_cluster = pytest.mark.parametrize("pair", [CLUSTER], indirect=True)


class Pair(Protocol):
    """A kind of database and a kind of place for blobs."""

    @property
    def environment(self) -> Mapping[str, str]:
        """What a process needs beside the two URLs."""

    @contextmanager
    def database(self, *, migrated: bool = True) -> Iterator[str]:
        """The URL of a database of the caller's own, with or without the tables."""

    def blobs(self) -> str:
        """The URL of an empty place for blobs."""


class OneMachine:
    """SQLite and a folder."""

    def __init__(self, folder: Path) -> None:
        self.environment: Mapping[str, str] = {}
        self._folder = folder
        self._template = folder / "template.db"
        migrate(f"sqlite:///{self._template}")

    @contextmanager
    def database(self, *, migrated: bool = True) -> Iterator[str]:
        folder = self._folder / uuid.uuid4().hex
        folder.mkdir()
        if migrated:
            shutil.copyfile(self._template, folder / "polyhead.db")
        yield f"sqlite:///{folder}/polyhead.db"

    def blobs(self) -> str:
        return (self._folder / uuid.uuid4().hex / "blobs").as_uri()


class Cluster:
    """PostgreSQL and S3, each one server for all tests."""

    def __init__(self, postgresql: str, endpoint: str) -> None:
        self.environment: Mapping[str, str] = ACCESS | {"AWS_ENDPOINT_URL": endpoint}
        self._url = sa.make_url(postgresql)
        self._server = sa.create_engine(self._url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        self._say(f"CREATE DATABASE {TEMPLATE}")
        migrate(self._url_of(TEMPLATE))

    @contextmanager
    def database(self, *, migrated: bool = True) -> Iterator[str]:
        name = f"test_{uuid.uuid4().hex}"
        self._say(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE if migrated else 'template1'}")
        try:
            yield self._url_of(name)
        finally:
            self._say(f"DROP DATABASE {name} WITH (FORCE)")

    def blobs(self) -> str:
        return f"s3://{BUCKET}/{uuid.uuid4().hex}"

    def _url_of(self, database: str) -> str:
        return self._url.set(database=database).render_as_string(hide_password=False)

    def _say(self, statement: str) -> None:
        with self._server.connect() as connection:
            connection.exec_driver_sql(statement)


@contextmanager
def open_cluster() -> Iterator[Cluster]:
    """Start both servers, and end them."""
    with ExitStack() as stack:
        yield Cluster(stack.enter_context(started("postgresql")), stack.enter_context(started("s3")))
