"""`polyhead backup`, `verify` and `restore` as operators use them: exit codes, one line, the same answers."""

import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.store import open_store
from service.store.blobs import MULTIPART_FROM
from service.store.keys import import_key
from service.store.schema import newest
from tests.e2e.test_replicas import predicted, teach, train
from tests.integration.store.test_backups import upload
from tests.integration.store.values import new_run
from tests.servers import clean_environment, serving, variable
from tests.stores import Cluster, OneMachine


def polyhead(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "service", *map(str, arguments)],
        env=clean_environment() | {variable(name): value for name, value in environment.items()},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def last_line(done: "subprocess.CompletedProcess[str]") -> str:
    return done.stderr.splitlines()[-1]


def test_a_machine_s_backup_goes_to_a_cluster_and_back_and_answers_the_same(
    one_machine: OneMachine, cluster: Cluster, tmp_path: Path
) -> None:
    cache = {"cache_dir": str(tmp_path / "cache")}
    answers = cache | {"trainers": "0"}
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    on_s3 = f"{cluster.blobs()}/backups"
    with serving(tmp_path / "first", **cache) as server, server.client(timeout=300) as client:
        client.post("/v1/tasks", json={"name": "colours", "kind": "multiclass"})
        teach(client, range(8))
        train(client)
        before = predicted(client)
        # While it runs, and then to both kinds of places.
        for place, environment in ((tmp_path / "backups", {}), (on_s3, cluster.environment)):
            done = polyhead("backup", place, "--data-dir", server.data_dir, **environment)
            assert (done.returncode, done.stdout) == (0, ""), done.stderr
            assert "is whole: " in last_line(done)
        done = polyhead("verify", "--data-dir", server.data_dir)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert before["version"] == 1

    with cluster.database(migrated=False) as url:
        urls = {"database_url": url, "blob_url": cluster.blobs(), **cluster.environment}
        done = polyhead("restore", tmp_path / "backups", **urls)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        again = polyhead("restore", tmp_path / "backups", **urls)
        assert (again.returncode, again.stdout) == (2, "")
        assert "polyhead: the database isn't empty" in again.stderr
        assert polyhead("verify", **urls).returncode == 0
        with serving(tmp_path / "second", **urls, **answers) as server, server.client() as client:
            assert same(predicted(client), before)
            teach(client, range(8, 10))  # it goes on

    done = polyhead("restore", on_s3, "--data-dir", tmp_path / "third" / "data", **cluster.environment)
    assert done.returncode == 0, done.stderr
    with serving(tmp_path / "third", **answers) as server, server.client() as client:
        assert same(predicted(client), before)


def same(one: dict[str, object], other: dict[str, object]) -> bool:
    return {**one, "id": None} == {**other, "id": None}


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """An embedded store that is there."""
    assert polyhead("migrate", "--data-dir", tmp_path / "data").returncode == 0
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("backup", "nosuch://x"), "can't use nosuch://x: "),
        (("backup", "{tmp}/photos"), "isn't empty, and holds no polyhead-backups.json"),
        (("backup", "{tmp}/photos/cat.jpg"), "can't use {tmp}/photos/cat.jpg: "),
        (("backup", "{tmp}/new", "--data-dir", "{tmp}/none"), "there is no database {tmp}/none/polyhead.db"),
        (("verify", "{tmp}/none"), "{tmp}/none is no folder"),
        (("verify", "--data-dir", "{tmp}/none"), "there is no database"),
        (("restore", "{tmp}/photos"), "holds no backups"),
        (("restore", "{tmp}/backups", "--backup", "20000101"), "holds no finished backup 20000101"),
        (("restore", "{tmp}/backups", "--data-dir", "{tmp}/photos/cat.jpg/data"), "can't write to"),
    ],
)
def test_what_is_wrong_is_one_line(
    data_dir: Path, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"mine")
    assert polyhead("backup", tmp_path / "backups", "--data-dir", data_dir).returncode == 0
    said = [each.format(tmp=tmp_path) for each in arguments]
    done = polyhead(*said, data_dir=str(data_dir))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("polyhead: ")
    assert len(done.stderr.splitlines()) == 1
    assert says.format(tmp=tmp_path) in done.stderr
    assert not (tmp_path / "none").exists()


def test_a_schema_of_another_release_is_one_line(data_dir: Path, tmp_path: Path) -> None:
    """Of the next one, too: more may be there than this one knows of."""
    with sqlite3.connect(data_dir / "polyhead.db") as database:
        database.execute("UPDATE alembic_version SET version_num = ?", (f"{int(newest()) + 1:04d}",))
    for command in (("backup", tmp_path / "backups"), ("verify",)):
        done = polyhead(*command, "--data-dir", data_dir)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert "is of a newer version" in done.stderr


def test_what_a_check_finds_is_a_line_each_and_exit_code_one(data_dir: Path, tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{data_dir}/polyhead.db", (data_dir / "blobs").as_uri())
    lost, damaged, _ = upload(store, store.tasks.create("default", "pets", "multiclass", now=1.0), *"abc")
    store.close()
    (data_dir / "blobs" / lost).unlink()
    (data_dir / "blobs" / damaged).write_bytes(b"other bytes")
    for command in (("verify",), ("backup", tmp_path / "backups"), ("verify", tmp_path / "backups")):
        done = polyhead(*command, data_dir=str(data_dir))
        assert done.returncode == 1, done.stderr
        assert {line.split()[0] for line in done.stdout.splitlines()} == {lost, damaged}
    done = polyhead("restore", tmp_path / "backups", "--data-dir", tmp_path / "again")
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 2)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_backup_is_none_and_the_next_one_goes_on(
    data_dir: Path, tmp_path: Path, number: signal.Signals
) -> None:
    store = open_store(f"sqlite:///{data_dir}/polyhead.db", (data_dir / "blobs").as_uri())
    upload(store, store.tasks.create("default", "pets", "multiclass", now=1.0), *(str(n) for n in range(300)))
    store.close()
    place = tmp_path / "backups"
    command = [sys.executable, "-m", "service", "backup", str(place), "--data-dir", str(data_dir)]
    with subprocess.Popen(command, env=clean_environment(), stderr=subprocess.PIPE, text=True) as process:
        while not list(place.glob("blobs/**/images/*")):
            time.sleep(0.001)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    if number == signal.SIGINT:
        assert said.splitlines()[-1].startswith("polyhead: interrupted: ")
    # A file that was being written has another name, with "#", and is no blob.
    there = len([path for path in place.glob("blobs/**/images/*") if "#" not in path.name])
    assert there < 300
    for attempt in ("restore", "verify"):
        done = polyhead(attempt, place, "--data-dir", tmp_path / "again")
        assert (done.returncode, done.stdout) == (2, "")
        assert "holds no backup that was finished" in done.stderr
    done = polyhead("backup", place, "--data-dir", data_dir)
    assert done.returncode == 0, done.stderr
    assert f"{300 - there} of {300 - there} blobs copied" in done.stderr
    manifests = list(place.glob("backups/*/manifest.json"))
    assert [json.loads(path.read_text())["blobs"] for path in manifests] == [300]
    assert len(list(place.glob("backups/*"))) == 1
    assert polyhead("verify", place).returncode == 0


def test_a_full_temporary_folder_is_one_line(data_dir: Path, tmp_path: Path) -> None:
    """A large archive goes through it; the system refuses to write beyond a limit of this process."""
    store = open_store(f"sqlite:///{data_dir}/polyhead.db", (data_dir / "blobs").as_uri())
    task = store.tasks.create("default", "pets", "multiclass", now=1.0)
    archive = import_key(task, "run_1")
    store.blobs.put_new(archive, bytes(MULTIPART_FROM + 1))
    store.runs.create("default", new_run(task, kind="import", options={"archive": archive}), now=1.0)
    store.close()
    program = (
        "import resource; from service.__main__ import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8 * 2**20, 8 * 2**20)); main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "backup", tmp_path / "backups", "--data-dir", data_dir],
        env=clean_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert last_line(done).startswith("polyhead: can't use the temporary folder")
    assert "Traceback" not in done.stderr
