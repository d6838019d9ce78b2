"""Leases: short ones that really run out, on the database's own clock."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from service.errors import LostLease, UnknownRun
from service.store import Store
from service.store.claims import ABANDONED_S
from service.store.records import ImportItem, Run, Task
from service.store.tables import tasks
from service.store.tasks import find_task
from tests.integration.store.values import BACKBONE, OTHER_BACKBONE, TENANT, new_run, new_version
from tests.stores import on_a_cluster

SHORT_S = 0.02


def claim(store: Store, lease_s: float = 60.0, max_attempts: int = 3) -> Run:
    run = store.runs.claim(lease_s, max_attempts)
    assert run is not None
    return run


def claim_and_die(store: Store) -> Run:
    run = claim(store, SHORT_S, 9)
    time.sleep(SHORT_S * 2)
    return run


def test_runs_are_claimed_oldest_first(store: Store) -> None:
    three = [store.tasks.create(TENANT, f"task-{number}", "multiclass", now=1.0) for number in range(3)]
    ids = [store.runs.create(TENANT, new_run(task), now=float(9 - at)).id for at, task in enumerate(three)]
    assert [claim(store).id for _ in three] == ids[::-1]
    assert store.runs.claim(60, 3) is None


def test_a_claimed_run_is_running_and_nobody_else_s(store: Store, task: Task) -> None:
    store.runs.create(TENANT, new_run(task), now=1.0)
    run = claim(store)
    assert (run.state, run.attempt) == ("running", 1)
    assert run.started_at == pytest.approx(time.time(), abs=60)
    assert store.runs.claim(60, 3) is None


def test_many_claims_at_once_never_get_the_same_run(store: Store) -> None:
    for number in range(12):
        task = store.tasks.create(TENANT, f"task-{number}", "multiclass", now=1.0)
        store.runs.create(TENANT, new_run(task), now=1.0)
    with ThreadPoolExecutor(8) as threads:
        claimed = list(threads.map(lambda _: store.runs.claim(60, 3), range(20)))
    ids = [run.id for run in claimed if run is not None]
    while (run := store.runs.claim(60, 3)) is not None:  # a claim may have met only locked rows
        ids.append(run.id)
    assert len(ids) == 12
    assert len(set(ids)) == 12


def test_a_silent_trainer_s_run_is_given_to_another(store: Store, task: Task) -> None:
    store.runs.create(TENANT, new_run(task), now=1.0)
    first = claim_and_die(store)
    second = claim(store)
    assert (second.id, second.attempt) == (first.id, 2)
    assert second.started_at == first.started_at
    states = [event.data["state"] for event in store.runs.events(first.id, after=0, limit=9)]
    assert states == ["queued", "running", "running"]


def test_a_heartbeat_keeps_the_lease(store: Store, task: Task) -> None:
    store.runs.create(TENANT, new_run(task), now=1.0)
    run = claim(store, 0.3)
    deadline = time.monotonic() + 0.6
    while time.monotonic() < deadline:
        store.runs.heartbeat(run.id, 1, 0.3, {"phase": "fit"})
        assert store.runs.claim(60, 3) is None
    assert store.runs.get(TENANT, run.id).progress == {"phase": "fit"}


def test_a_stopped_and_woken_trainer_changes_nothing(store: Store, task: Task) -> None:
    store.runs.create(TENANT, new_run(task), now=1.0)
    stale = claim_and_die(store)
    current = claim(store)
    before = (store.runs.get(TENANT, stale.id), store.runs.events(stale.id, after=0, limit=99))
    item = ImportItem(index=0, filename="a", status="created", example_id="ex", error=None)
    for late in (
        lambda: store.runs.heartbeat(stale.id, stale.attempt, 60, {"phase": "late"}),
        lambda: store.runs.finish(stale.id, stale.attempt, "succeeded"),
        lambda: store.runs.release(stale.id, stale.attempt),
        lambda: store.runs.reserve_version(stale.id, stale.attempt),
        lambda: store.runs.publish(stale.id, stale.attempt, new_version(), publish=True, reason="late"),
        lambda: store.runs.add_items(stale.id, stale.attempt, [item]),
    ):
        with pytest.raises(LostLease):
            late()
    assert (store.runs.get(TENANT, stale.id), store.runs.events(stale.id, after=0, limit=99)) == before
    assert store.versions.list(task, limit=5).data == []
    store.runs.finish(current.id, current.attempt, "succeeded")


def test_an_ended_run_takes_nothing_more(store: Store, task: Task) -> None:
    store.runs.create(TENANT, new_run(task), now=1.0)
    run = claim(store)
    store.runs.finish(run.id, run.attempt, "succeeded", result={"created": 3})
    ended = store.runs.get(TENANT, run.id)
    assert (ended.state, ended.result) == ("succeeded", {"created": 3})
    assert ended.finished_at is not None
    with pytest.raises(LostLease):
        store.runs.finish(run.id, run.attempt, "failed")
    with pytest.raises(LostLease):
        store.runs.heartbeat(run.id, run.attempt, 60)


def test_a_deleted_task_s_run_is_lost(store: Store, task: Task) -> None:
    store.runs.create(TENANT, new_run(task), now=1.0)
    run = claim(store)
    store.tasks.delete(TENANT, task.name)
    with pytest.raises(LostLease):
        store.runs.heartbeat(run.id, run.attempt, 60)
    with pytest.raises(LostLease):
        store.runs.publish(run.id, run.attempt, new_version(), publish=True, reason="first")
    with pytest.raises(UnknownRun):
        store.runs.get(TENANT, run.id)


def test_used_up_attempts_fail_the_run_and_the_next_is_claimed(store: Store, task: Task) -> None:
    other = store.tasks.create(TENANT, "other", "multiclass", now=1.0)
    fatal = store.runs.create(TENANT, new_run(task), now=1.0)
    for _ in range(3):
        assert claim_and_die(store).id == fatal.id
    waiting = store.runs.create(TENANT, new_run(other), now=2.0)
    assert claim(store).id == waiting.id
    failed = store.runs.get(TENANT, fatal.id)
    assert failed.state == "failed"
    assert failed.error is not None
    assert failed.error["code"] == "run_interrupted"
    assert failed.finished_at is not None
    assert store.runs.events(fatal.id, after=0, limit=99)[-1].data["error"] == failed.error
    store.runs.create(TENANT, new_run(task), now=3.0)


def test_used_up_attempts_with_nothing_else_to_do(store: Store, task: Task) -> None:
    run = store.runs.create(TENANT, new_run(task), now=1.0)
    claim_and_die(store)
    assert store.runs.claim(60, 1) is None
    assert store.runs.get(TENANT, run.id).state == "failed"


def test_a_run_given_back_is_claimed_again_and_the_attempt_does_not_count(store: Store, task: Task) -> None:
    run = store.runs.create(TENANT, new_run(task), now=1.0)
    for attempt in range(1, 6):  # more often than attempts are allowed
        claimed = claim(store, max_attempts=1)
        assert (claimed.id, claimed.attempt) == (run.id, attempt)
        store.runs.release(run.id, attempt)
        assert store.runs.get(TENANT, run.id).state == "queued"
        with pytest.raises(LostLease):
            store.runs.heartbeat(run.id, attempt, 60)


def test_a_cancelled_run_whose_trainer_died_or_gave_it_back_ends(store: Store, task: Task) -> None:
    run = store.runs.create(TENANT, new_run(task), now=1.0)
    claim_and_die(store)
    store.runs.cancel(TENANT, run.id)
    assert store.runs.claim(60, 3) is None
    assert store.runs.get(TENANT, run.id).state == "cancelled"
    run = store.runs.create(TENANT, new_run(task), now=1.0)
    claimed = claim(store)
    store.runs.cancel(TENANT, run.id)
    store.runs.release(run.id, claimed.attempt)
    assert store.runs.get(TENANT, run.id).state == "cancelled"


@on_a_cluster
@pytest.mark.parametrize(
    "act",
    [
        lambda store, run: store.runs.heartbeat(run.id, run.attempt, 60, {"phase": "fit"}),
        lambda store, run: store.runs.finish(run.id, run.attempt, "failed"),
        lambda store, run: store.runs.release(run.id, run.attempt),
        lambda store, run: store.runs.publish(
            run.id, run.attempt, new_version(), publish=True, reason="late"
        ),
        lambda store, run: store.runs.cancel(TENANT, run.id),
    ],
    ids=["heartbeat", "finish", "release", "publish", "cancel"],
)
def test_a_deletion_never_waits_for_what_waits_for_it(
    store: Store, task: Task, act: Callable[[Store, Run], object]
) -> None:
    """A second change of a run locks its task too: the task's lock comes first, or both would wait."""
    store.runs.create(TENANT, new_run(task), now=1.0)
    run = claim(store)
    with ThreadPoolExecutor(1) as threads:
        with store.database.write() as deletion:
            find_task(deletion, TENANT, task.name, lock=True)
            late = threads.submit(act, store, run)
            time.sleep(0.5)  # it waits by now
            deletion.execute(sa.delete(tasks).where(tasks.c.id == task.id))
        with pytest.raises((LostLease, UnknownRun)):
            late.result()


@on_a_cluster
def test_a_run_whose_task_is_being_deleted_is_passed_over(store: Store, task: Task) -> None:
    other = store.tasks.create(TENANT, "other", "multiclass", now=1.0)
    store.runs.create(TENANT, new_run(task), now=1.0)
    waiting = store.runs.create(TENANT, new_run(other), now=2.0)
    with ThreadPoolExecutor(1) as threads, store.database.write() as deletion:
        find_task(deletion, TENANT, task.name, lock=True)
        claimed = threads.submit(claim, store)
        assert claimed.result(20).id == waiting.id
        deletion.execute(sa.delete(tasks).where(tasks.c.id == task.id))


def test_a_trainer_leaves_another_backbone_s_run_to_its_trainers(store: Store, task: Task) -> None:
    other = store.tasks.create(TENANT, "other", "multiclass", now=1.0)
    now = time.time()
    theirs = store.runs.create(TENANT, new_run(other, backbone_digest=OTHER_BACKBONE), now=now - 30)
    mine = store.runs.create(TENANT, new_run(task), now=now)
    assert claim_of(store, BACKBONE) == mine.id
    assert claim_of(store, BACKBONE) is None
    assert claim_of(store, OTHER_BACKBONE) == theirs.id


def test_a_run_that_no_trainer_of_its_backbone_takes_is_taken_by_another_in_the_end(
    store: Store, task: Task
) -> None:
    """That can only fail it, and say why; else it would be active for ever."""
    old = store.runs.create(
        TENANT, new_run(task, backbone_digest=OTHER_BACKBONE), now=time.time() - ABANDONED_S - 60
    )
    assert store.runs.claim(60, 3, backbone_digest=BACKBONE, abandoned_s=None) is None
    assert claim_of(store, BACKBONE) == old.id


@pytest.mark.parametrize("ended", [False, True], ids=["at work", "just done"])
def test_a_run_that_waits_for_a_busy_trainer_of_its_backbone_is_not_abandoned(
    store: Store, task: Task, *, ended: bool
) -> None:
    other = store.tasks.create(TENANT, "other", "multiclass", now=1.0)
    long_ago = time.time() - ABANDONED_S - 60
    busy = store.runs.create(TENANT, new_run(other, backbone_digest=OTHER_BACKBONE), now=long_ago)
    assert claim_of(store, OTHER_BACKBONE) == busy.id
    waiting = store.runs.create(TENANT, new_run(task, backbone_digest=OTHER_BACKBONE), now=long_ago)
    if ended:
        store.runs.finish(busy.id, 1, "succeeded")
    assert claim_of(store, BACKBONE) is None
    assert claim_of(store, OTHER_BACKBONE) == waiting.id


def test_a_silent_run_that_is_to_be_cancelled_is_any_trainer_s_to_end(store: Store, task: Task) -> None:
    run = store.runs.create(TENANT, new_run(task, backbone_digest=OTHER_BACKBONE), now=time.time())
    claim_and_die(store)
    assert claim_of(store, BACKBONE) is None
    store.runs.cancel(TENANT, run.id)
    assert claim_of(store, BACKBONE) is None
    assert store.runs.get(TENANT, run.id).state == "cancelled"


def claim_of(store: Store, backbone_digest: str) -> str | None:
    run = store.runs.claim(60, 3, backbone_digest=backbone_digest)
    return None if run is None else run.id
