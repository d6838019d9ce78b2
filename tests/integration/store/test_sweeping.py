"""Blobs that nothing names go a grace time after that was first seen, and nothing else ever does."""

import random
import threading
import time
from collections.abc import Callable

import pytest
from rich.console import Console

from service.backup.making import back_up
from service.backup.place import Place
from service.backup.source import Source
from service.backup.verifying import verify_backup, verify_live
from service.store import Store
from service.store.keys import head_key, import_key
from service.store.records import Task
from service.store.sweeping import Swept, sweep
from service.store.turns import take_turn
from tests.integration.store.test_backups import upload
from tests.integration.store.values import TENANT, new_run
from tests.stores import Pair

DAY = 86_400.0
QUIET = Console(quiet=True)


def swept(store: Store, days: float) -> Swept:
    """Sweep in some days' time."""
    return sweep(store.database, store.blobs, grace_s=DAY, now=time.time() + days * DAY)


def there(store: Store) -> set[str]:
    return {each.key for each in store.blobs.list()}


def test_what_rows_name_stays_however_old(store: Store, task: Task, publish: Callable[..., int]) -> None:
    keys = set(upload(store, task, "a", "b"))
    head, archive = head_key(task, "a" * 64), import_key(task, "run_1")
    for key in (head, archive):
        store.blobs.put_new(key, b"bytes")
    publish(task, head_key=head, predictions_key=head)
    store.runs.create(TENANT, new_run(task, kind="import", options={"archive": archive}, id="run_1"), now=1.0)
    for days in (2, 4, 400):
        assert swept(store, days) == Swept(noted=0, deleted=0)
    assert there(store) == keys | {head, archive}
    store.runs.cancel(TENANT, "run_1")
    swept(store, 401)
    swept(store, 403)
    assert there(store) == keys | {head}


def test_a_deleted_task_s_blobs_go_after_the_grace_time(store: Store, task: Task) -> None:
    other = store.tasks.create(TENANT, "birds", "multiclass", now=1.0)
    keys, kept = upload(store, task, "a", "b"), upload(store, other, "a")
    assert swept(store, 0) == Swept()
    store.tasks.delete(TENANT, task.name)
    assert swept(store, 300) == Swept(noted=1, deleted=0), "old as they are, the deletion is of now"
    assert swept(store, 300.9) == Swept()
    assert there(store) == {*keys, *kept}
    assert swept(store, 301.1) == Swept(noted=0, deleted=1)
    assert there(store) == set(kept)
    assert swept(store, 303) == Swept()


def test_a_deleted_example_s_blob_goes_after_the_grace_time(store: Store, task: Task) -> None:
    gone, kept = upload(store, task, "a", "b")
    example = next(each for each in store.examples.for_training(task) if each.blob_key == gone)
    store.examples.delete(task, example.id)
    assert swept(store, 10) == Swept(noted=1, deleted=0)
    assert swept(store, 10.5) == Swept()
    assert there(store) == {gone, kept}
    assert swept(store, 11.5) == Swept(noted=0, deleted=1)
    assert there(store) == {kept}


def test_what_an_upload_left_is_not_even_noted_while_its_row_may_come(store: Store, task: Task) -> None:
    """Else a note made then would shorten the grace time of its example's deletion."""
    store.blobs.put_new(f"tenants/{TENANT}/tasks/{task.id}/images/crashed", b"bytes")
    assert swept(store, 0.5) == Swept()
    assert swept(store, 1.5) == Swept(noted=1, deleted=0)
    assert swept(store, 3) == Swept(noted=0, deleted=1)


def test_what_is_no_task_s_is_left_alone(store: Store) -> None:
    for key in ("ours/too", "tenants/default/other", "tenants/default/tasks/loose"):
        store.blobs.put_new(key, b"bytes")
    for days in (2, 4):
        assert swept(store, days) == Swept()
    assert len(there(store)) == 3


def test_a_sweep_that_is_ended_goes_on_the_next_time(store: Store) -> None:
    for number in range(3):
        upload(store, store.tasks.create(TENANT, f"t{number}", "multiclass", now=1.0), "a")
        store.tasks.delete(TENANT, f"t{number}")
    looks = iter((None, ValueError("stop")))

    def check() -> None:
        if isinstance(said := next(looks), Exception):
            raise said

    with pytest.raises(ValueError, match="stop"):
        sweep(store.database, store.blobs, grace_s=DAY, now=time.time(), check=check)
    assert swept(store, 0.5) == Swept(noted=2, deleted=0)
    assert swept(store, 2).deleted == 3
    assert there(store) == set()


def test_one_of_many_takes_a_turn_and_none_before_it_is_due(store: Store) -> None:
    assert [take_turn(store.database, "sweep", 60) for _ in range(3)] == [True, False, False]
    assert take_turn(store.database, "another", 60)
    time.sleep(0.05)
    assert take_turn(store.database, "sweep", 0.05)


@pytest.mark.parametrize("seed", range(2))
def test_a_backup_is_whole_whatever_is_deleted_and_swept_while_it_is_made(
    store: Store, task: Task, pair: Pair, seed: int
) -> None:
    """The rows first, then the blobs: within the grace time a sweep leaves all that the rows name."""
    rng = random.Random(seed)
    upload(store, task, *(f"image {number}" for number in range(30)))
    other = store.tasks.create(TENANT, "birds", "multiclass", now=1.0)
    upload(store, other, "a", "b")

    class Meanwhile:
        """The store's blobs, while others delete and sweep between one blob and the next."""

        url = store.blobs.url
        days = 100.0
        turn = threading.Lock()

        def open_stream(self, key: str):
            with self.turn:  # a backup reads many at once
                if rng.random() < 0.5:
                    store.examples.delete(task, store.examples.for_training(task)[0].id)
                self.days += 0.9 / 32  # the grace time has nearly passed in the end
                swept(store, self.days)
                return store.blobs.open_stream(key)

    place = Place.opened(pair.blobs(), new=True)
    made = back_up(Source(database=store.database, blobs=Meanwhile()), place, QUIET)
    assert (made.blobs, made.lacks) == (32, {})
    assert verify_backup(place, None, QUIET).lacks == {}
    assert verify_live(Source(database=store.database, blobs=store.blobs), QUIET).lacks == {}
    assert len(place.whole()) == 1
    swept(store, 102)
    assert len(there(store)) < 30
