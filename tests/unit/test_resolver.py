"""Targets, and how long an answer to them is kept."""

import asyncio

import pytest

from service.errors import StoreUnavailable, UnknownTask
from service.store.records import Resolved
from service.web.resolver import Resolver, Target


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("chairs", Target("chairs", "production", None)),
        ("chairs@candidate", Target("chairs", "candidate", None)),
        ("chairs@3", Target("chairs", None, 3)),
        ("chairs@", Target("chairs", "", None)),
        ("a@b@c", Target("a", "b@c", None)),
        ("a@" + "9" * 30, Target("a", "9" * 30, None)),
        ("a@²", Target("a", "²", None)),
        ("", Target("", "production", None)),
    ],
)
def test_targets_are_read(text, target):
    assert Target.parse(text) == target


class Aliases:
    """What the store would say, and how often it was asked."""

    def __init__(self):
        self.version = 1
        self.asked = 0
        self.error = None

    def resolve(self, tenant, task, *, alias, version, backbone_digest):
        self.asked += 1
        if self.error:
            raise self.error
        return Resolved(
            task_id=tenant, task_name=task, version=version or self.version, kind="multiclass", labels=("a",),
            threshold=None, head_digest="d", head_key="k", backbone_digest=backbone_digest,
        )  # fmt: skip


class Store:
    def __init__(self):
        self.aliases = Aliases()


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def clock():
    return [100.0]


@pytest.fixture
def resolve(store, clock):
    resolver = Resolver(store, "digest", fresh_s=1.0, clock=lambda: clock[0])

    def resolve(text="chairs", tenant="t"):
        return asyncio.run(resolver.resolve(tenant, Target.parse(text))).version

    resolve.resolver = resolver
    return resolve


def test_an_answer_is_kept_for_a_moment(store, clock, resolve):
    assert resolve() == 1
    store.aliases.version = 2
    clock[0] += 0.9
    assert resolve() == 1
    clock[0] += 0.2
    assert resolve() == 2
    assert store.aliases.asked == 2


def test_what_this_process_changed_is_asked_again(store, resolve):
    resolve()
    resolve("other")
    store.aliases.version = 2
    resolve.resolver.forget("t", "chairs")
    assert (resolve(), resolve("other")) == (2, 1)


def test_tenants_are_kept_apart(store, resolve):
    resolve()
    store.aliases.version = 2
    assert resolve(tenant="u") == 2


def test_an_error_is_not_kept(store, resolve):
    store.aliases.error = UnknownTask("chairs")
    with pytest.raises(UnknownTask):
        resolve()
    store.aliases.error = None
    assert resolve() == 1


def test_without_the_store_the_last_answer_goes_on(store, clock, resolve):
    resolve()
    store.aliases.error = StoreUnavailable()
    clock[0] += 3600
    assert resolve() == 1
    with pytest.raises(StoreUnavailable):
        resolve("never-asked-before")


def test_a_deleted_task_is_not_served_from_memory(store, clock, resolve):
    resolve()
    store.aliases.error = UnknownTask("chairs")
    clock[0] += 2
    with pytest.raises(UnknownTask):
        resolve()


def test_many_targets_fail_one_by_one(store):
    resolver = Resolver(store, "digest", fresh_s=1.0)
    store.aliases.error = UnknownTask("chairs")
    (found,) = asyncio.run(resolver.resolve_all("t", [Target.parse("chairs")]))
    assert isinstance(found, UnknownTask)
