import re
from concurrent.futures import ThreadPoolExecutor

from service.store.ids import new_id


def test_ids_sort_by_the_order_in_which_they_were_made() -> None:
    ids = [new_id("ex") for _ in range(5000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 5000


def test_ids_of_many_threads_are_unique() -> None:
    with ThreadPoolExecutor(8) as threads:
        ids = list(threads.map(lambda _: new_id("run"), range(5000)))
    assert len(set(ids)) == 5000


def test_an_id_names_its_kind_and_fits_its_column() -> None:
    id_ = new_id("task")
    assert re.fullmatch(r"task_[0-9a-f]{26}", id_)
    assert len(id_) <= 40
