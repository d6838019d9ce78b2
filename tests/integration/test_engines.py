"""The servers that tests run against leave nothing behind, and aren't those of another test run."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from tests.engines import ROOT, started
from tests.stores import Cluster

ENDS_S = 60.0  # the servers themselves take a moment


@pytest.mark.parametrize("what", ["postgresql", "s3"])
def test_a_test_run_that_is_killed_leaves_no_server(what: str) -> None:
    program = (
        "import time; from tests.engines import started\n"
        f"with started({what!r}) as where:\n"
        "    print(where, flush=True); time.sleep(600)"
    )
    with tempfile.TemporaryDirectory() as folder:  # of its own: its name is short, and others may enter it
        Path(folder).chmod(0o755)
        with subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT, env=os.environ | {"TMPDIR": folder}, stdout=subprocess.PIPE, text=True,
        ) as run:  # fmt: skip
            assert run.stdout is not None
            where = run.stdout.readline().strip()
            assert ":" in where
            assert list(Path(folder).iterdir())
            run.kill()
        deadline = time.monotonic() + ENDS_S
        while list(Path(folder).iterdir()):  # goes after the server has ended
            assert time.monotonic() < deadline
            time.sleep(0.05)
    if what == "s3":
        port = where.rpartition(":")[2]
        assert not list(Path("/tmp").glob(f"seaweedfs-s3-{port}.sock"))


def test_two_test_runs_at_once_have_servers_of_their_own(cluster: Cluster) -> None:
    with started("postgresql") as url, cluster.database() as other:
        engine = sa.create_engine(url)
        with engine.connect() as connection:
            found = connection.exec_driver_sql("SELECT datname FROM pg_database").scalars().all()
        engine.dispose()
    assert "postgres" in found
    assert sa.make_url(other).database not in found


def test_a_database_that_has_ended_by_itself_is_started_again() -> None:
    """As where its disk was full, and it found no room to recover in."""
    with started("postgresql", "synchronous_commit=on") as url:
        engine = sa.create_engine(url, poolclass=NullPool)
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE kept AS SELECT 7 AS number")
        folder = Path(str(sa.make_url(url).query["host"]))
        os.kill(int((folder / "data" / "postmaster.pid").read_text().splitlines()[0]), signal.SIGKILL)
        deadline = time.monotonic() + ENDS_S
        while True:
            try:
                with engine.connect() as connection:
                    assert connection.exec_driver_sql("SELECT number FROM kept").scalar_one() == 7
                break
            except sa.exc.OperationalError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
