"""The release before, on today's schema: the commit before the newest migration, beside today's server.

A rolling upgrade migrates first, and then replaces the servers one by one; taking it back does the same in
the other order.
"""

import subprocess
import tarfile
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from service.store.schema import MIGRATIONS, newest, revision_of
from tests.e2e.test_replicas import LABELS, predicted, seen, teach, train
from tests.servers import serving
from tests.stores import Pair

ROOT = Path(__file__).parents[2]


def git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(
            f"no history, so no last release: git says {done.stderr.strip()!r}. Where there is only a part "
            "of it: git fetch --unshallow"
        )
    return done.stdout.strip()


def commit_before(migration: Path) -> str:
    """The last commit that doesn't have it: the newest, while it isn't committed."""
    added = git("log", "-1", "--diff-filter=A", "--format=%H", "--", str(migration))
    return git("rev-parse", "--verify", f"{added}^{{commit}}^1" if added else "HEAD")


@pytest.fixture(scope="module")
def last_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its checkout."""
    (migration,) = (MIGRATIONS / "versions").glob(f"{newest()}_*.py")
    folder = tmp_path_factory.mktemp("last-release")
    git("archive", "--output", str(folder / "tree.tar"), commit_before(migration))
    with tarfile.open(folder / "tree.tar") as tree:
        tree.extractall(folder / "tree", filter="data")
    assert not (folder / "tree" / migration.relative_to(ROOT)).exists()
    return folder / "tree"


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all: exporting a backbone takes most of a start."""
    return tmp_path_factory.mktemp("cache")


def test_the_last_release_works_on_today_s_schema_beside_today_s_server(
    pair: Pair, last_release: Path, cache_dir: Path, tmp_path: Path
) -> None:
    """What is taught, published, rolled back and deleted on the one is served by the other within seconds."""
    with pair.database() as url:
        shared = {"database_url": url, "blob_url": pair.blobs(), "cache_dir": str(cache_dir)}
        shared |= pair.environment
        (tmp_path / "old").mkdir()
        (tmp_path / "new").mkdir()
        earlier = {"cwd": last_release, "PYTHONPATH": str(last_release)}
        with (
            serving(tmp_path / "old", **shared, **earlier) as old,
            serving(tmp_path / "new", **shared, trainers="0") as new,
            old.client(timeout=300) as theirs,
            new.client(timeout=60) as ours,
        ):
            assert Path(f"/proc/{old.process.pid}/cwd").readlink() == last_release
            assert schema_of(url) == newest()
            created = theirs.post("/v1/tasks", json={"name": "colours", "kind": "multiclass"})
            assert created.status_code == 201, created.text
            teach(theirs, range(8))
            assert predicted(ours)["code"] == "nothing_published"
            assert train(theirs)["version"] == 1
            answer = seen(lambda: predicted(ours), lambda said: said.get("version") == 1)
            assert [each["label"] for each in answer["predictions"]] == list(LABELS)

            teach(ours, range(8, 12))
            assert train(theirs)["version"] == 2
            for version in (1, 2):
                moves(ours, theirs, version)
            for version in (1, 2):
                moves(theirs, ours, version)

            assert theirs.delete("/v1/tasks/colours").status_code == 204
            seen(lambda: predicted(ours), lambda said: said.get("code") == "unknown_task")


def moves(one: httpx.Client, other: httpx.Client, version: int) -> None:
    moved = one.put("/v1/tasks/colours/aliases/production", json={"version": version})
    assert moved.status_code == 200, moved.text
    seen(lambda: predicted(other), lambda said: said.get("version") == version)


def schema_of(url: str) -> str | None:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        found = revision_of(connection)
    engine.dispose()
    return found
