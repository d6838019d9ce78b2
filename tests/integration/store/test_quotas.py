from concurrent.futures import ThreadPoolExecutor

import pytest

from service.errors import QuotaExceeded, TaskExists, TooManyRuns
from service.store import Quotas, open_store
from service.store.records import Task
from tests.integration.store.values import BACKBONE, TENANT, new_example, new_run


@pytest.fixture
def limited(database_url, blob_url):
    """Opens a store with quotas."""
    opened = []

    def limited(**quotas):
        opened.append(open_store(database_url, blob_url, Quotas(**quotas)))
        return opened[-1]

    yield limited
    for store in opened:
        store.close()


def new_task(store, name, tenant=TENANT) -> Task:
    return store.tasks.create(tenant, name, "multiclass", now=1.0)


def add(store, task, *names, **changed):
    items = [new_example(name, "cat", **changed) for name in names]
    return store.examples.add(task, items, backbone_digest=BACKBONE, now=1.0)


def test_a_tenant_has_no_more_tasks_than_its_quota_and_others_have_their_own(limited):
    store = limited(tasks=2)
    new_task(store, "a")
    new_task(store, "b")
    with pytest.raises(QuotaExceeded, match="2 tasks"):
        new_task(store, "c")
    with pytest.raises(TaskExists):  # whoever makes sure of a task learns that it is there
        new_task(store, "b")
    new_task(store, "c", tenant="another")
    store.tasks.delete(TENANT, "a")
    new_task(store, "c")


def test_tasks_made_at_the_same_moment_do_not_exceed_it_either(limited):
    store = limited(tasks=3)

    def attempt(number):
        try:
            new_task(store, f"task-{number}")
        except QuotaExceeded:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(attempt, range(12))) == 3


def test_examples_beyond_the_quota_fail_one_by_one(limited):
    store = limited(examples=3)
    first, second = new_task(store, "a"), new_task(store, "b")
    add(store, first, "one", "two")
    results = add(store, second, "one", "three", "one")
    assert [result.status for result in results] == ["created", None, "duplicate"]
    assert isinstance(results[1].error, QuotaExceeded)
    store.examples.delete(first, store.examples.list(first, limit=1).data[0].id)
    assert [result.status for result in add(store, second, "three")] == ["created"]


def test_of_bytes_what_fits_is_taken(limited):
    store = limited(image_bytes=100)
    task = new_task(store, "a")
    sizes = {"one": 60, "two": 60, "three": 40}
    items = [new_example(name, "cat", size=size) for name, size in sizes.items()]
    results = store.examples.add(task, items, backbone_digest=BACKBONE, now=1.0)
    assert [result.status for result in results] == ["created", None, "created"]


def test_another_tenant_s_examples_do_not_count(limited):
    store = limited(examples=1, image_bytes=20_000)
    add(store, new_task(store, "a", tenant="another"), "one")
    assert [result.status for result in add(store, new_task(store, "a"), "one")] == ["created"]


def test_a_run_beyond_the_quota_waits_for_another_to_end(limited):
    store = limited(active_runs=1)
    first, second = new_task(store, "a"), new_task(store, "b")
    run = store.runs.create(TENANT, new_run(first), now=1.0)
    with pytest.raises(TooManyRuns):
        store.runs.create(TENANT, new_run(second), now=1.0)
    store.runs.cancel(TENANT, run.id)
    store.runs.create(TENANT, new_run(second), now=1.0)


def test_without_quotas_nothing_is_bounded(store):
    for number in range(5):
        new_task(store, f"task-{number}")
