import pytest
import sqlalchemy as sa

from service.errors import InvalidField, RunActive, RunEnded, UnknownRun, UnknownTask
from service.store import Store
from service.store.ids import new_id
from service.store.records import ImportItem, Task
from service.store.tables import runs
from tests.integration.store.values import TENANT, new_run


def test_a_created_run_waits(store: Store, task: Task) -> None:
    run = store.runs.create(TENANT, new_run(task, options={"seed": 7, "nested": {"a": [1, None]}}), now=4.0)
    assert store.runs.get(TENANT, run.id) == run
    assert (run.state, run.attempt, run.task_name, run.created_at) == ("queued", 0, task.name, 4.0)
    assert run.options == {"seed": 7, "nested": {"a": [1, None]}}
    assert (run.version, run.error, run.result, run.started_at) == (None, None, None, None)


def test_a_run_s_id_may_be_known_beforehand(store: Store, task: Task) -> None:
    """An archive is put under its run's id before the run can be claimed."""
    run_id = new_id("run")
    assert store.runs.create(TENANT, new_run(task, kind="import", id=run_id), now=1.0).id == run_id


def test_a_task_has_one_active_run(store: Store, task: Task) -> None:
    first = store.runs.create(TENANT, new_run(task), now=1.0)
    with pytest.raises(RunActive) as caught:
        store.runs.create(TENANT, new_run(task, kind="import"), now=2.0)
    assert caught.value.run == first.id
    store.runs.claim(60, 3)
    with pytest.raises(RunActive):
        store.runs.create(TENANT, new_run(task), now=3.0)
    store.runs.finish(first.id, 1, "failed")
    store.runs.create(TENANT, new_run(task), now=4.0)


def test_the_database_itself_refuses_a_second_active_run(store: Store, task: Task) -> None:
    store.runs.create(TENANT, new_run(task), now=1.0)
    columns = [column for column in runs.c if column.name != "id"]
    copied = sa.select(sa.literal("run_2"), *columns)
    second = sa.insert(runs).from_select(["id", *(column.name for column in columns)], copied)
    with store.database.write() as connection, pytest.raises(sa.exc.IntegrityError):
        connection.execute(second)


def test_a_run_needs_a_task_of_its_tenant(store: Store, task: Task) -> None:
    with pytest.raises(UnknownTask):
        store.runs.create("another", new_run(task), now=1.0)


def test_a_run_is_its_own_tenant_s(store: Store, task: Task) -> None:
    run = store.runs.create(TENANT, new_run(task), now=1.0)
    with pytest.raises(UnknownRun):
        store.runs.get("another", run.id)
    with pytest.raises(UnknownRun):
        store.runs.cancel("another", run.id)
    assert store.runs.list("another", limit=5).data == []


def test_a_reused_run_has_succeeded_already(store: Store, task: Task) -> None:
    active = store.runs.create(TENANT, new_run(task), now=1.0)
    run = store.runs.create_reused(TENANT, new_run(task), 3, now=2.0)
    assert (run.state, run.version, run.reused, run.published) == ("succeeded", 3, True, False)
    assert run.published_reason
    [event] = store.runs.events(run.id, after=0, limit=5)
    assert (event.data["state"], event.data["version"], event.data["reused"]) == ("succeeded", 3, True)
    claimed = store.runs.claim(60, 3)
    assert claimed is not None
    assert claimed.id == active.id
    assert store.runs.claim(60, 3) is None


def test_runs_are_listed_newest_first_of_one_task_or_all(store: Store, task: Task) -> None:
    other = store.tasks.create(TENANT, "other", "multiclass", now=1.0)
    ids = []
    for number in range(4):
        run = store.runs.create(TENANT, new_run((task, other)[number % 2]), now=float(number))
        store.runs.cancel(TENANT, run.id)
        ids.append(run.id)
    first = store.runs.list(TENANT, limit=3)
    second = store.runs.list(TENANT, limit=3, after=first.next)
    assert [run.id for run in (*first.data, *second.data)] == ids[::-1]
    assert [run.id for run in store.runs.list(TENANT, task_id=task.id, limit=9).data] == [ids[2], ids[0]]


def test_a_queued_run_is_cancelled_at_once(store: Store, task: Task) -> None:
    run = store.runs.create(TENANT, new_run(task), now=1.0)
    cancelled = store.runs.cancel(TENANT, run.id)
    assert cancelled.state == "cancelled"
    assert cancelled.finished_at is not None
    assert store.runs.claim(60, 3) is None
    assert [event.data["state"] for event in store.runs.events(run.id, after=0, limit=9)] == [
        "queued", "cancelled",
    ]  # fmt: skip


def test_a_running_run_is_asked_to_stop(store: Store, task: Task) -> None:
    run = store.runs.create(TENANT, new_run(task), now=1.0)
    store.runs.claim(60, 3)
    assert store.runs.heartbeat(run.id, 1, 60) is False
    asked = store.runs.cancel(TENANT, run.id)
    assert (asked.state, asked.cancel_requested) == ("running", True)
    assert store.runs.cancel(TENANT, run.id) == asked
    assert store.runs.heartbeat(run.id, 1, 60) is True


def test_an_ended_run_cannot_be_cancelled(store: Store, task: Task) -> None:
    run = store.runs.create(TENANT, new_run(task), now=1.0)
    store.runs.cancel(TENANT, run.id)
    with pytest.raises(RunEnded, match="cancelled"):
        store.runs.cancel(TENANT, run.id)


def test_events_are_numbered_and_resume_after_any_of_them(store: Store, task: Task) -> None:
    run = store.runs.create(TENANT, new_run(task), now=1.0)
    store.runs.claim(60, 3)
    for epoch in range(3):
        store.runs.heartbeat(run.id, 1, 60, {"phase": "fit", "epoch": epoch})
    store.runs.finish(run.id, 1, "failed", error={"code": "untrainable_data", "detail": "why"})
    events = store.runs.events(run.id, after=0, limit=100)
    assert [event.id for event in events] == [1, 2, 3, 4, 5, 6]
    assert [event.event for event in events] == [
        "state",
        "state",
        "progress",
        "progress",
        "progress",
        "state",
    ]
    assert events[3].data == {"phase": "fit", "epoch": 1}
    assert events[-1].data["state"] == "failed"
    assert events[-1].data["error"] == {"code": "untrainable_data", "detail": "why"}
    assert store.runs.events(run.id, after=3, limit=2) == events[3:5]
    times = [event.created_at for event in events]
    assert times == sorted(times)


def test_progress_that_is_no_json_is_refused_and_not_shown(store: Store, task: Task) -> None:
    """PostgreSQL has no NaN in JSON, nor have browsers."""
    run = store.runs.create(TENANT, new_run(task), now=1.0)
    store.runs.claim(60, 3)
    with pytest.raises(InvalidField):
        store.runs.heartbeat(run.id, 1, 60, {"loss": float("nan")})
    assert store.runs.get(TENANT, run.id).progress == {}


def test_imported_items_are_paged_in_the_archive_s_order(store: Store, task: Task) -> None:
    run = store.runs.create(TENANT, new_run(task, kind="import", strategy=None), now=1.0)
    store.runs.claim(60, 3)
    items = [
        ImportItem(index=0, filename="a.png", status="created", example_id="ex_1", error=None),
        ImportItem(index=1, filename="b.txt", status=None, example_id=None, error={"code": "invalid_image"}),
        ImportItem(index=2, filename="c.png", status="duplicate", example_id="ex_1", error=None),
    ]
    store.runs.add_items(run.id, 1, items[:2])
    store.runs.add_items(run.id, 1, items[1:])  # a retry says some again
    store.runs.add_items(run.id, 1, [])
    first = store.runs.items(run.id, limit=2)
    assert (first.data, first.next) == (items[:2], "1")
    assert store.runs.items(run.id, limit=2, after=first.next).data == items[2:]
    with pytest.raises(InvalidField):
        store.runs.items(run.id, limit=2, after="x")
