from dataclasses import replace

import pytest

from service.errors import InvalidField, UnknownKey
from service.store import Store
from service.store.ids import new_id
from service.store.records import ApiKey


def new_key(**changed: object) -> ApiKey:
    values = {
        "id": new_id("key"), "tenant": "acme", "name": "the shop's", "scopes": ("predict", "train"),
        "digest": "d" * 64, "pepper": "p" * 16, "created_at": 1.0,
    }  # fmt: skip
    return ApiKey(**values | changed)


def test_a_key_is_kept_and_found(store: Store) -> None:
    key = new_key()
    assert store.api_keys.add(key)
    assert store.api_keys.find(key.id) == key
    assert store.api_keys.find(new_id("key")) is None


def test_a_key_that_is_there_stays_as_it_is_also_revoked(store: Store) -> None:
    key = new_key()
    store.api_keys.add(key)
    revoked = store.api_keys.revoke(key.id, 2.0)
    assert not store.api_keys.add(replace(key, scopes=("admin",)))
    assert store.api_keys.find(key.id) == revoked == replace(key, revoked_at=2.0)


@pytest.mark.parametrize("tenant", ["", "../up", "a/b", "A", "a" * 64])
def test_a_tenant_that_could_not_be_a_folder_is_refused(store: Store, tenant: str) -> None:
    with pytest.raises(InvalidField):
        store.api_keys.add(new_key(tenant=tenant))


def test_all_keys_are_listed_newest_first(store: Store) -> None:
    first, second = new_key(), new_key(tenant="other")
    store.api_keys.add(first)
    store.api_keys.add(second)
    store.api_keys.revoke(first.id, 2.0)
    assert store.api_keys.list() == [second, replace(first, revoked_at=2.0)]


def test_a_key_is_revoked_once(store: Store) -> None:
    key = new_key()
    store.api_keys.add(key)
    store.api_keys.revoke(key.id, 2.0)
    assert store.api_keys.revoke(key.id, 3.0).revoked_at == 2.0
    with pytest.raises(UnknownKey):
        store.api_keys.revoke("key_none", 3.0)


def test_only_a_key_that_is_neither_revoked_nor_of_a_lost_pepper_lets_anybody_in(store: Store) -> None:
    key = new_key()
    assert not store.api_keys.any_usable([key.pepper])
    store.api_keys.add(key)
    assert store.api_keys.any_usable(["0" * 16, key.pepper])
    assert not store.api_keys.any_usable(["0" * 16])
    store.api_keys.revoke(key.id, 2.0)
    assert not store.api_keys.any_usable([key.pepper])


def test_a_use_is_noted_now_and_then(store: Store) -> None:
    key = new_key()
    store.api_keys.add(key)
    seen = []
    for now in (100.0, 130.0, 160.0):
        store.api_keys.note_use(key.id, now, apart_s=60)
        seen.append(store.api_keys.find(key.id).last_used_at)
    assert seen == [100.0, 100.0, 160.0]


def test_a_digest_under_another_pepper_is_kept_at_once(store: Store) -> None:
    key = new_key(last_used_at=100.0)
    store.api_keys.add(key)
    store.api_keys.note_use(key.id, 101.0, apart_s=60, kept=("e" * 64, "q" * 16))
    found = store.api_keys.find(key.id)
    assert (found.digest, found.pepper, found.last_used_at) == ("e" * 64, "q" * 16, 101.0)
