"""Several real processes on one store: killed, stopped, or racing each other."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path

import pytest

from service.store import Store, open_store
from service.store.records import Task
from tests.integration.store.values import BACKBONE, TENANT, new_example, new_run, new_version
from tests.integration.store.writer import BATCH
from tests.stores import on_one_machine

ROOT = Path(__file__).parents[3]
Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def start(database_url: str, blob_url: str, task: Task) -> Iterator[Start]:
    """Start a writer; whatever happens, it is gone after the test."""
    with ExitStack() as stack:

        def start(what: str) -> subprocess.Popen[str]:
            said = [what, database_url, blob_url, task.name]
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.store.writer", *said],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


def killed_after(process: subprocess.Popen[str], lines: int, pause_s: float) -> list[str]:
    """What it had acknowledged when it was killed, at any moment of its work."""
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(lines)]
    time.sleep(pause_s)
    process.kill()
    return [*said, *process.stdout.readlines()]


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_writer_loses_nothing_acknowledged(
    store: Store, task: Task, start: Start, seed: int
) -> None:
    """kill -9 at any moment: each batch is there with its labels, embeddings and bytes, or not at all."""
    rng = random.Random(seed)
    said = killed_after(start("examples"), rng.randint(1, 15), rng.uniform(0, 0.02))
    acknowledged = {id_ for line in said if line.endswith("\n") for id_ in line.split()}
    kept = {example.id: example for example in store.examples.for_training(task)}
    assert acknowledged <= kept.keys()
    assert len(kept) % BATCH == 0
    assert len(kept) <= len(acknowledged) + BATCH
    for example in kept.values():
        assert example.labels
        name = (example.filename or "").removesuffix(".png")
        assert store.blobs.get(example.blob_key) == name.encode() * 1000
    assert store.embeddings.missing(task, BACKBONE, labelled_only=False, limit=9) == []
    assert sum(store.tasks.summary(task, BACKBONE).per_class.values()) == len(kept)
    again = store.examples.add(task, [new_example("after", "cat")], backbone_digest=BACKBONE, now=9.0)
    assert again[0].status == "created"


@on_one_machine
def test_a_killed_writer_leaves_a_sound_file(store: Store, start: Start) -> None:
    killed_after(start("examples"), 10, 0.003)
    with store.database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []


def test_a_transaction_that_was_killed_never_happened(store: Store, task: Task, start: Start) -> None:
    killed_after(start("hold"), 1, 0)
    assert store.tasks.get(TENANT, task.name) == task
    began = time.monotonic()
    store.tasks.update(TENANT, task.name, description="at once", now=2.0)
    assert time.monotonic() - began < 5, "the dead writer's lock is gone with it"


def test_readers_do_not_wait_for_a_writer(store: Store, task: Task, start: Start) -> None:
    process = start("hold")
    assert process.stdout is not None
    process.stdout.readline()
    began = time.monotonic()
    assert store.tasks.get(TENANT, task.name) == task
    assert time.monotonic() - began < 5


def test_a_trainer_that_was_stopped_and_woken_cannot_publish(store: Store, task: Task, start: Start) -> None:
    """SIGSTOP, the lease runs out, another publishes, SIGCONT: its late publish is refused."""
    store.runs.create(TENANT, new_run(task), now=1.0)
    process = start("trainer")
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdout.readline()
    process.send_signal(signal.SIGSTOP)
    time.sleep(0.1)
    run = store.runs.claim(60, 3)
    assert run is not None
    assert store.runs.publish(run.id, run.attempt, new_version(), publish=True, reason="first") == 1
    process.send_signal(signal.SIGCONT)
    process.stdin.write("go on\n")
    process.stdin.flush()
    assert process.stdout.readline() == "LostLease\n"
    assert [version.number for version in store.versions.list(task, limit=5).data] == [1]


def race(database_url: str, blob_url: str, name: str) -> list[tuple[str | None, str | None]]:
    """In a process of its own: upload 40 images, the same as the others do."""
    store = open_store(database_url, blob_url)
    task = store.tasks.get(TENANT, name)
    outcome = []
    for number in range(40):
        item = new_example(str(number), f"class {number}")
        [result] = store.examples.add(task, [item], backbone_digest=BACKBONE, now=2.0)
        outcome.append((result.status, result.example_id))
    store.close()
    return outcome


def test_processes_that_add_the_same_images_create_each_once(
    store: Store, task: Task, database_url: str, blob_url: str
) -> None:
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as processes:
        racing = [processes.submit(race, database_url, blob_url, task.name) for _ in range(3)]
        outcomes = [future.result() for future in racing]
    for upload in zip(*outcomes, strict=True):
        assert sorted(str(status) for status, _ in upload) == ["created", "duplicate", "duplicate"]
        assert len({id_ for _, id_ in upload}) == 1
    assert len(store.examples.for_training(task)) == 40
    assert store.tasks.get_by_id(task.id).data_revision == 40
