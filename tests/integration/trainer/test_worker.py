"""service/trainer/worker.py as a process: killed, stopped, asked to go. No run is lost or done twice."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress

import httpx
import pytest
from prometheus_client import REGISTRY

from service.store.keys import task_prefix
from service.store.records import DEFAULT_TENANT
from service.trainer.worker import work_on
from tests.integration.trainer.tasks import (
    add,
    add_slow,
    colours,
    new_task,
    queue_training,
)
from tests.servers import free_port

TENANT = DEFAULT_TENANT
LEASE_S = 1.5
START_S = 60.0  # torch builds the tiny backbone; the cores are shared


@contextmanager
def trainer(settings, **environment):
    """`polyhead worker` in a process group of its own, killed in the end."""
    said = {
        "POLYHEAD_DATA_DIR": str(settings.data_dir),
        "POLYHEAD_CACHE_DIR": str(settings.cache_dir),
        "POLYHEAD_BACKBONE": settings.backbone,
        "POLYHEAD_LEASE_S": str(LEASE_S),
        "POLYHEAD_POLL_S": "0.05",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "worker"],
        env=os.environ | said | environment,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(condition, within_s=START_S):
    end = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return found


def begun(bench, run):
    """The run, once it is in the middle of its embeddings."""
    now = bench.store.runs.get(TENANT, run.id)
    return now if now.state == "running" and now.progress.get("done") else None


def ended(bench, run):
    now = bench.store.runs.get(TENANT, run.id)
    return now if now.state in ("succeeded", "failed", "cancelled") else None


def numbers(bench, task):
    return [version.number for version in bench.store.versions.list(task, limit=10).data]


def group_is_gone(process):
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture
def slow(bench):
    """A task whose training takes seconds, and the queued run."""
    task = new_task(bench.store)
    add_slow(bench, task, 24)
    return task, queue_training(bench, task)


def test_a_killed_trainer_leaves_its_run_to_another(bench, settings, slow):
    task, run = slow
    with trainer(settings) as first:
        wait_for(lambda: begun(bench, run))
        first.kill()
        first.wait()
        wait_for(lambda: group_is_gone(first), within_s=5)  # its child too
        with trainer(settings):
            done = wait_for(lambda: ended(bench, run))
    assert (done.state, done.attempt, numbers(bench, task)) == ("succeeded", 2, [1])


def test_a_trainer_woken_after_its_lease_publishes_nothing(bench, settings, slow):
    """SIGSTOP past the lease; another does the run; after SIGCONT the first drops it and takes the next."""
    task, run = slow
    with trainer(settings) as first:
        wait_for(lambda: begun(bench, run))
        os.killpg(first.pid, signal.SIGSTOP)
        with trainer(settings) as second:
            done = wait_for(lambda: ended(bench, run))
            os.killpg(first.pid, signal.SIGCONT)
            assert (done.state, done.attempt, numbers(bench, task)) == ("succeeded", 2, [1])
            second.terminate()
            assert second.wait(10) == 0
        next_run = queue_training(bench, task, options={"seed": 1})
        assert wait_for(lambda: ended(bench, next_run)).state == "succeeded"
    assert bench.store.runs.get(TENANT, run.id) == done
    assert numbers(bench, task) == [2, 1]


def test_sigterm_puts_the_run_back_and_ends_at_once(bench, settings, slow):
    task, run = slow
    with trainer(settings) as process:
        wait_for(lambda: begun(bench, run))
        start = time.monotonic()
        process.terminate()
        assert process.wait(10) == 0
        assert time.monotonic() - start < 3
        wait_for(lambda: group_is_gone(process), within_s=5)
    assert bench.store.runs.get(TENANT, run.id).state == "queued"
    assert numbers(bench, task) == []


def test_a_lone_trainer_shows_its_counters_before_it_counts(settings, store):
    """A rate can't see a counter that begins with a 1."""
    port = free_port()

    def metrics():
        with suppress(httpx.ConnectError):
            return httpx.get(f"http://127.0.0.1:{port}/metrics").text

    with trainer(settings, POLYHEAD_METRICS_PORT=str(port)):
        text = wait_for(metrics)
    assert 'polyhead_trainer_runs_total{kind="train",state="failed"} 0.0' in text
    assert 'polyhead_trainer_runs_total{kind="import",state="succeeded"} 0.0' in text


def in_thread(bench):
    run = bench.store.runs.claim(15, 3)
    thread = threading.Thread(target=work_on, args=(run, bench, threading.Event()))
    thread.start()
    return thread


def test_a_cancelled_training_ends_within_two_seconds(bench, slow):
    task, run = slow
    thread = in_thread(bench)
    wait_for(lambda: begun(bench, run))
    start = time.monotonic()
    bench.store.runs.cancel(TENANT, run.id)
    thread.join()
    assert time.monotonic() - start < 2
    assert bench.store.runs.get(TENANT, run.id).state == "cancelled"
    assert numbers(bench, task) == []


def test_a_killed_child_fails_its_run_and_not_the_next(bench, slow):
    task, run = slow
    thread = in_thread(bench)
    wait_for(lambda: begun(bench, run))
    os.kill(bench.child.pid, signal.SIGKILL)
    thread.join()
    failed = bench.store.runs.get(TENANT, run.id)
    assert (failed.state, failed.error["code"]) == ("failed", "run_failed")
    assert "killed" in failed.error["detail"]
    queue_training(bench, task)
    in_thread(bench).join()
    assert numbers(bench, task) == [1]


def test_progress_is_told_as_it_goes(bench, slow):
    _, run = slow
    in_thread(bench).join()
    events = bench.store.runs.events(run.id, after=0, limit=500)
    states = [event.data["state"] for event in events if event.event == "state"]
    progress = [event.data for event in events if event.event == "progress"]
    assert states == ["queued", "running", "succeeded"]
    embedding = [each for each in progress if each["phase"] == "embedding" and each.get("done")]
    assert embedding
    assert all(each["total"] == 24 and each["seconds_left"] >= 0 for each in embedding)
    gaps = [b.created_at - a.created_at for a, b in itertools.pairwise(events) if b.event == "progress"]
    assert all(gap > 0.3 for gap in gaps)


def test_runs_are_counted_by_how_they_end(bench, work):
    def counted():
        ends = ("succeeded", "failed")
        name = "polyhead_trainer_runs_total"
        return [REGISTRY.get_sample_value(name, {"kind": "train", "state": end}) or 0 for end in ends]

    before = counted()
    task = new_task(bench.store, name="empty")
    queue_training(bench, task)
    assert work().state == "failed"
    add(bench, task, colours(4))
    queue_training(bench, task)
    assert work().state == "succeeded"
    assert counted() == [before[0] + 1, before[1] + 1]


def test_a_trainer_refuses_another_version_s_schema(settings, store):
    with store.database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with trainer(settings) as process:
        assert process.wait(START_S) == 2


def test_a_trainer_sweeps_what_a_deleted_task_has_left(settings, bench):
    gone, kept = (new_task(bench.store, name=name) for name in ("gone", "kept"))
    for task in (gone, kept):
        add(bench, task, colours(1))
    bench.store.tasks.delete(TENANT, gone.name)
    folder = settings.data_dir / "blobs"
    assert (folder / task_prefix(TENANT, gone.id)).exists()
    with trainer(settings, POLYHEAD_SWEEP_EVERY_S="0.1", POLYHEAD_BLOB_GRACE_S="0.5") as process:
        wait_for(lambda: not (folder / task_prefix(TENANT, gone.id)).exists())
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert len([path for path in folder.rglob("images/*") if path.is_file()]) == 3
