from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from service.errors import IdempotencyKeyReused, RequestInProgress
from service.store import Store
from service.store.idempotency import ABANDONED_S, KEPT_S
from service.store.records import StoredResponse
from service.store.tables import idempotency
from tests.integration.store.values import TENANT

ANSWER = StoredResponse(
    request_digest="f" * 64, status=201, headers={"content-type": "application/json"}, body=b'{"a":1}\x00'
)


def begin(store: Store, key: str = "key", fingerprint: str = "f" * 64) -> StoredResponse | None:
    return store.idempotency.begin(TENANT, key, fingerprint)


def age(store: Store, seconds: float) -> None:
    """Let time pass for every key."""
    with store.database.write() as connection:
        older = {"created_at": idempotency.c.created_at - seconds}
        connection.execute(sa.update(idempotency).values(older))


def test_a_repeated_request_gets_the_first_answer(store: Store) -> None:
    assert begin(store) is None
    store.idempotency.finish(TENANT, "key", ANSWER)
    assert begin(store) == ANSWER
    assert store.idempotency.begin("another", "key", "f" * 64) is None


def test_the_first_answer_stays(store: Store) -> None:
    begin(store)
    store.idempotency.finish(TENANT, "key", ANSWER)
    late = StoredResponse(request_digest="f" * 64, status=500, headers={}, body=b"late")
    store.idempotency.finish(TENANT, "key", late)
    store.idempotency.abandon(TENANT, "key")
    assert begin(store) == ANSWER


def test_a_request_is_answered_once_at_a_time(store: Store) -> None:
    begin(store)
    with pytest.raises(RequestInProgress):
        begin(store)


def test_another_request_with_the_same_key_is_refused(store: Store) -> None:
    begin(store)
    with pytest.raises(IdempotencyKeyReused):
        begin(store, fingerprint="0" * 64)
    store.idempotency.finish(TENANT, "key", ANSWER)
    with pytest.raises(IdempotencyKeyReused):
        begin(store, fingerprint="0" * 64)


def test_an_abandoned_key_is_free(store: Store) -> None:
    begin(store)
    store.idempotency.abandon(TENANT, "key")
    assert begin(store, fingerprint="0" * 64) is None


def test_a_key_whose_holder_died_is_taken_over(store: Store) -> None:
    begin(store)
    age(store, ABANDONED_S - 60)
    with pytest.raises(RequestInProgress):
        begin(store)
    age(store, 61)
    assert begin(store) is None
    with pytest.raises(RequestInProgress):
        begin(store)


def test_a_key_is_forgotten_after_a_day(store: Store) -> None:
    begin(store)
    store.idempotency.finish(TENANT, "key", ANSWER)
    age(store, KEPT_S - 60)
    assert begin(store) == ANSWER
    age(store, 61)
    assert begin(store, fingerprint="0" * 64) is None


def test_of_many_equal_requests_at_once_one_does_the_work(store: Store) -> None:
    def attempt(_: int) -> str:
        try:
            return "mine" if begin(store) is None else "answered"
        except RequestInProgress:
            return "in progress"

    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(attempt, range(16)))
    assert sorted(outcomes) == ["in progress"] * 15 + ["mine"]
