"""Targets, and how long an answer to them is kept."""

import asyncio
import threading
import time

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
        self.asked = 0  # of targets, in however many statements
        self.statements = 0
        self.stamps = 0
        self.error = None
        self.hangs = threading.Event()  # cleared: it does
        self.hangs.set()
        self.hangs_on_targets = threading.Event()  # cleared: only where it is asked for one
        self.hangs_on_targets.set()

    def stamp(self):
        self.stamps += 1
        self.hangs.wait(10)
        if isinstance(self.error, StoreUnavailable):
            raise self.error
        return self.version, type(self.error)

    def resolve(self, tenant, task, *, alias, version, backbone_digest):
        self.statements += 1
        self.asked += 1
        self.hangs_on_targets.wait(10)
        if self.error:
            raise self.error
        return self.found(tenant, task, version or self.version, backbone_digest)

    def resolve_many(self, tenant, named, backbone_digest):
        self.statements += 1
        if isinstance(self.error, StoreUnavailable):
            raise self.error
        there = [pair for pair in named if "absent" not in pair]
        self.asked += len(there)
        return {pair: self.found(tenant, pair[0], self.version, backbone_digest) for pair in there}

    def found(self, tenant, task, version, backbone_digest):
        return Resolved(
            task_id=tenant, task_name=task, version=version, kind="multiclass", labels=("a",),
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
    resolve.resolver.change("t", "chairs")
    assert (resolve(), resolve("other")) == (2, 1)


def test_what_another_process_is_known_to_have_changed_is_asked_again(store, resolve):
    assert [resolve(tenant=tenant) for tenant in "tu"] == [1, 1]  # the store here names tasks after tenants
    store.aliases.version = 2
    resolve.resolver.expire({"t"})
    assert [resolve(tenant=tenant) for tenant in "tu"] == [2, 1]
    assert (store.aliases.asked, store.aliases.stamps) == (3, 1)


def test_what_another_process_has_changed_goes_on_without_the_store(store, resolve):
    resolve()
    store.aliases.error = StoreUnavailable()
    resolve.resolver.expire({"t"})
    assert resolve() == 1
    store.aliases.error, store.aliases.version = None, 2
    assert resolve() == 2


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


def test_while_nothing_changes_nothing_is_asked_but_whether_it_has(store, clock, resolve):
    for second in range(5):
        clock[0] = 100.0 + 1.1 * second
        assert [resolve(f"task-{number}") for number in range(20)] == [1] * 20
    assert store.aliases.asked == 20
    assert store.aliases.stamps == 5


def test_a_change_of_one_task_is_seen_by_all(store, clock, resolve):
    resolve("chairs")
    resolve("tables")
    store.aliases.version = 2
    clock[0] += 1.1
    assert (resolve("chairs"), resolve("tables")) == (2, 2)


def test_many_targets_are_one_statement(store):
    resolver = Resolver(store, "digest", fresh_s=1.0)
    targets = [Target.parse(f"task-{number}") for number in range(50)]
    found = asyncio.run(resolver.resolve_all("t", targets))
    assert [each.task_name for each in found] == [target.task for target in targets]
    assert store.aliases.statements == 1


def test_many_targets_fail_one_by_one(store):
    resolver = Resolver(store, "digest", fresh_s=1.0)
    store.aliases.error = UnknownTask("absent")
    found = asyncio.run(resolver.resolve_all("t", [Target.parse(name) for name in ("a", "absent", "b")]))
    assert isinstance(found[1], UnknownTask)
    assert [each.task_name for each in (found[0], found[2])] == ["a", "b"]


def test_many_targets_of_a_store_out_of_reach_fail_or_go_on_one_by_one(store, clock):
    resolver = Resolver(store, "digest", fresh_s=1.0, clock=lambda: clock[0])

    async def both():
        await resolver.resolve("t", Target.parse("known"))
        store.aliases.error = StoreUnavailable()
        clock[0] += 60
        return await resolver.resolve_all("t", [Target.parse("known"), Target.parse("new")])

    known, new = asyncio.run(both())
    assert known.task_name == "known"
    assert isinstance(new, StoreUnavailable)


def test_a_publish_here_is_seen_at_once_and_without_the_store_what_was_before_goes_on(store):
    resolver = Resolver(store, "digest", fresh_s=1000.0)
    target = Target.parse("chairs")

    async def versions():
        seen = [(await resolver.resolve("t", target)).version]
        store.aliases.version = 2
        resolver.change("t", "chairs")
        store.aliases.error = StoreUnavailable()
        seen.append((await resolver.resolve("t", target)).version)
        store.aliases.error = None
        seen.append((await resolver.resolve("t", target)).version)
        store.aliases.error = StoreUnavailable()
        resolver.forget("t", "chairs")
        with pytest.raises(StoreUnavailable):
            await resolver.resolve("t", target)
        return seen

    assert asyncio.run(versions()) == [1, 1, 2]


def test_a_store_that_hangs_holds_up_nobody_who_is_known(store):
    resolver = Resolver(store, "digest", fresh_s=0.0)
    target = Target.parse("chairs")

    async def ten():
        await resolver.resolve("t", target)
        store.aliases.hangs.clear()
        began = time.monotonic()
        try:
            for _ in range(10):
                assert (await resolver.resolve("t", target)).version == 1
            return time.monotonic() - began
        finally:
            store.aliases.hangs.set()

    assert 0.9 < asyncio.run(ten()) < 3


def test_a_store_that_hangs_after_something_changed_holds_up_nobody_who_is_known(store):
    """All that was known before the change is asked for again, and the store may freeze just then."""
    resolver = Resolver(store, "digest", fresh_s=0.0)
    target = Target.parse("chairs")

    async def once():
        await resolver.resolve("t", target)
        store.aliases.version = 2  # of all aliases: a change
        store.aliases.hangs_on_targets.clear()
        began = time.monotonic()
        try:
            assert (await resolver.resolve("t", target)).version == 1
            return time.monotonic() - began
        finally:
            store.aliases.hangs_on_targets.set()

    assert 0.9 < asyncio.run(once()) < 3


def test_requests_at_the_same_moment_look_once(store):
    resolver = Resolver(store, "digest", fresh_s=1.0)

    async def many():
        await asyncio.gather(*(resolver.resolve("t", Target.parse("chairs")) for _ in range(30)))

    asyncio.run(many())
    assert store.aliases.stamps == 1
