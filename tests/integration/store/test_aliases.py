from concurrent.futures import ThreadPoolExecutor

import pytest

from models.errors import BackboneMismatch
from service.errors import (
    InvalidField,
    NothingPublished,
    StaleETag,
    UnknownAlias,
    UnknownTask,
    UnknownVersion,
)
from service.store import Store
from service.store.records import PRODUCTION, Task
from tests.integration.store.values import (
    BACKBONE,
    OTHER_BACKBONE,
    TENANT,
    new_example,
    new_run,
    new_version,
)


@pytest.fixture(autouse=True)
def two_versions(task: Task, publish) -> None:
    publish(task, move=False)
    publish(task, move=False, labels=("a", "b"), threshold=0.5)


def test_an_alias_points_where_it_was_put(store: Store, task: Task) -> None:
    alias = store.aliases.put(task, "canary", 2, backbone_digest=BACKBONE, now=7.0)
    assert (alias.version, alias.pinned, alias.updated_at) == (2, False, 7.0)
    assert store.aliases.get(task, "canary", BACKBONE) == alias
    assert store.aliases.list(task, BACKBONE) == [alias]
    assert store.aliases.list(task, OTHER_BACKBONE) == []


def test_a_revision_is_never_given_twice(store: Store, task: Task) -> None:
    """Also not after a deletion: an ETag from before it must be stale."""
    first = store.aliases.put(task, "canary", 1, backbone_digest=BACKBONE, now=1.0)
    moved = store.aliases.put(task, "canary", 2, backbone_digest=BACKBONE, now=2.0)
    same = store.aliases.put(task, "canary", 2, backbone_digest=BACKBONE, now=3.0)
    assert moved.revision > first.revision
    assert same == moved
    store.aliases.delete(task, "canary", BACKBONE)
    again = store.aliases.put(task, "canary", 1, backbone_digest=BACKBONE, now=4.0)
    assert again.revision > moved.revision


def test_a_stale_etag_moves_and_deletes_nothing(store: Store, task: Task) -> None:
    old = store.aliases.put(task, PRODUCTION, 1, backbone_digest=BACKBONE, now=1.0)
    new = store.aliases.put(task, PRODUCTION, 2, backbone_digest=BACKBONE, if_match=old.revision, now=2.0)
    with pytest.raises(StaleETag):
        store.aliases.put(task, PRODUCTION, 1, backbone_digest=BACKBONE, if_match=old.revision, now=3.0)
    with pytest.raises(StaleETag):
        store.aliases.put(task, "absent", 1, backbone_digest=BACKBONE, if_match=1, now=3.0)
    with pytest.raises(StaleETag):
        store.aliases.delete(task, PRODUCTION, BACKBONE, if_match=old.revision)
    assert store.aliases.get(task, PRODUCTION, BACKBONE) == new
    store.aliases.delete(task, PRODUCTION, BACKBONE, if_match=new.revision)


@pytest.mark.parametrize("name", ["", "3", "A", "a b", "x" * 64])
def test_a_name_that_could_not_be_asked_for_is_refused(store: Store, task: Task, name: str) -> None:
    with pytest.raises(InvalidField):
        store.aliases.put(task, name, 1, backbone_digest=BACKBONE, now=1.0)


def test_an_alias_needs_a_version_of_this_backbone(store: Store, task: Task, publish) -> None:
    publish(task, move=False, backbone_digest=OTHER_BACKBONE)
    with pytest.raises(UnknownVersion):
        store.aliases.put(task, "canary", 9, backbone_digest=BACKBONE, now=1.0)
    with pytest.raises(BackboneMismatch) as caught:
        store.aliases.put(task, "canary", 3, backbone_digest=BACKBONE, now=1.0)
    assert (caught.value.fitted_on, caught.value.serving) == (OTHER_BACKBONE, BACKBONE)
    assert store.aliases.list(task, BACKBONE) == []


def test_what_is_not_there_is_unknown(store: Store, task: Task) -> None:
    with pytest.raises(UnknownAlias):
        store.aliases.get(task, PRODUCTION, BACKBONE)
    with pytest.raises(UnknownAlias):
        store.aliases.delete(task, "canary", BACKBONE)
    store.tasks.delete(TENANT, task.name)
    with pytest.raises(UnknownTask):
        store.aliases.put(task, "canary", 1, backbone_digest=BACKBONE, now=1.0)


def test_a_prediction_is_resolved_to_a_version(store: Store, task: Task) -> None:
    store.aliases.put(task, PRODUCTION, 1, backbone_digest=BACKBONE, now=1.0)
    store.aliases.put(task, "canary", 2, backbone_digest=BACKBONE, now=1.0)

    def version(**named: object) -> int:
        return store.aliases.resolve(TENANT, task.name, backbone_digest=BACKBONE, **named).version

    assert (version(), version(alias="canary"), version(version=2)) == (1, 2, 2)
    resolved = store.aliases.resolve(TENANT, task.name, alias="canary", backbone_digest=BACKBONE)
    assert (resolved.task_id, resolved.task_name, resolved.kind) == (task.id, task.name, "multiclass")
    assert (resolved.labels, resolved.threshold) == (("a", "b"), 0.5)
    assert (resolved.head_digest, resolved.backbone_digest) == ("e" * 64, BACKBONE)


def test_a_prediction_knows_by_which_alias_it_came_and_whether_that_is_pinned(
    store: Store, task: Task
) -> None:
    store.aliases.put(task, PRODUCTION, 1, pinned=True, backbone_digest=BACKBONE, now=1.0)
    store.aliases.put(task, "canary", 1, backbone_digest=BACKBONE, now=1.0)

    def said(**named: object) -> tuple[str | None, bool]:
        resolved = store.aliases.resolve(TENANT, task.name, backbone_digest=BACKBONE, **named)
        return resolved.alias, resolved.pinned

    assert said() == (PRODUCTION, True)
    assert said(alias="canary") == ("canary", False)
    assert said(version=1) == (None, False)


def test_what_can_not_be_resolved_says_why(store: Store, task: Task) -> None:
    def resolve(name: str = task.name, **named: object) -> None:
        store.aliases.resolve(TENANT, name, backbone_digest=BACKBONE, **named)

    with pytest.raises(UnknownTask):
        resolve("absent")
    with pytest.raises(NothingPublished):
        resolve()
    with pytest.raises(UnknownAlias):
        resolve(alias="canary")
    with pytest.raises(UnknownVersion):
        resolve(version=9)
    with pytest.raises(InvalidField):
        resolve(alias="canary", version=1)


def test_another_tenant_s_task_is_unknown(store: Store, task: Task) -> None:
    store.aliases.put(task, PRODUCTION, 1, backbone_digest=BACKBONE, now=1.0)
    with pytest.raises(UnknownTask):
        store.aliases.resolve("another", task.name, backbone_digest=BACKBONE)


def test_each_backbone_has_its_own_pointer(store: Store, task: Task, publish) -> None:
    """A new backbone's replicas answer from their own heads, or say that theirs is missing."""
    store.aliases.put(task, PRODUCTION, 1, backbone_digest=BACKBONE, now=1.0)
    with pytest.raises(BackboneMismatch) as caught:
        store.aliases.resolve(TENANT, task.name, backbone_digest=OTHER_BACKBONE)
    assert (caught.value.fitted_on, caught.value.serving) == (BACKBONE, OTHER_BACKBONE)
    with pytest.raises(BackboneMismatch):
        store.aliases.resolve(TENANT, task.name, version=1, backbone_digest=OTHER_BACKBONE)
    publish(task, backbone_digest=OTHER_BACKBONE)
    assert store.aliases.resolve(TENANT, task.name, backbone_digest=OTHER_BACKBONE).version == 3
    assert store.aliases.resolve(TENANT, task.name, backbone_digest=BACKBONE).version == 1


def test_many_targets_are_resolved_as_each_would_be_alone(store: Store, task: Task, publish) -> None:
    other = store.tasks.create(TENANT, "birds", "multiclass", now=1.0)
    publish(other, move=False)
    for named, alias in ((task, PRODUCTION), (task, "canary"), (other, "canary")):
        store.aliases.put(named, alias, 1, backbone_digest=BACKBONE, now=1.0)
    pairs = [(name, alias) for name in ("pets", "birds", "absent") for alias in (PRODUCTION, "canary", "no")]
    found = store.aliases.resolve_many(TENANT, pairs, BACKBONE)
    assert found.keys() == {("pets", PRODUCTION), ("pets", "canary"), ("birds", "canary")}
    for (name, alias), resolved in found.items():
        assert resolved == store.aliases.resolve(TENANT, name, alias=alias, backbone_digest=BACKBONE)
    assert store.aliases.resolve_many("another", pairs, BACKBONE) == {}
    assert store.aliases.resolve_many(TENANT, pairs, OTHER_BACKBONE) == {}
    assert store.aliases.resolve_many(TENANT, [], BACKBONE) == {}


def test_the_stamp_is_another_one_after_every_change_of_what_is_served(
    store: Store, task: Task, publish
) -> None:
    seen = [store.aliases.stamp()]

    def changed() -> bool:
        seen.append(store.aliases.stamp())
        return seen[-1] not in seen[:-1]

    def put(of: Task, version: int = 1, **how: bool) -> None:
        store.aliases.put(of, "canary", version, backbone_digest=BACKBONE, now=1.0, **how)

    assert store.aliases.stamp() == seen[0]
    put(task)
    assert changed()
    put(task, 2)
    assert changed()
    put(task, 2, pinned=True)
    assert changed()
    publish(task)
    assert changed()
    store.aliases.delete(task, "canary", BACKBONE)
    put(task)
    assert changed()
    # Deletions between two looks that others make up for in number.
    other = store.tasks.create(TENANT, "birds", "multiclass", now=1.0)
    publish(other)
    assert changed()
    store.aliases.delete(task, "canary", BACKBONE)
    put(other)
    assert changed()
    store.tasks.delete(TENANT, "birds")
    again = store.tasks.create(TENANT, "birds", "multiclass", now=1.0)
    publish(again)
    put(again)
    assert changed()
    store.tasks.delete(TENANT, "birds")
    assert changed()
    # A version is served by its number, too.
    store.aliases.delete(task, PRODUCTION, BACKBONE)
    assert changed()
    store.tasks.delete(TENANT, task.name)
    assert changed()


def test_the_stamp_counts_changes_where_they_are_committed(store: Store, publish) -> None:
    """Two at once, on tasks of the same count or not: whatever is seen after the one or the other is new."""
    named = [store.tasks.create(TENANT, f"task-{number}", "multiclass", now=1.0) for number in range(24)]
    for each in named:
        publish(each, move=False)
    before = store.aliases.stamp()

    def move(of: Task) -> int:
        store.aliases.put(of, "canary", 1, backbone_digest=BACKBONE, now=1.0)
        return store.aliases.stamp()

    with ThreadPoolExecutor(8) as threads:
        seen = list(threads.map(move, named))
    assert min(seen) > before
    assert store.aliases.stamp() == max(seen) == before + len(named)


def test_the_stamp_stays_while_others_only_upload_and_train(store: Store, task: Task, publish) -> None:
    before = store.aliases.stamp()
    publish(task, move=False)
    store.examples.add(task, [new_example("a", "cat")], backbone_digest=BACKBONE, now=1.0)
    store.tasks.update(TENANT, task.name, description="changed", now=2.0)
    assert store.aliases.stamp() == before


def test_what_a_backbone_serves_is_listed_over_all_tenants(store: Store, publish) -> None:
    task = store.tasks.create(TENANT, "birds", "multiclass", now=1.0)
    theirs = store.tasks.create("acme", "pets", "multiclass", now=1.0)
    for number, backbone in enumerate((BACKBONE, BACKBONE, OTHER_BACKBONE), start=1):
        assert publish(task, backbone_digest=backbone, move=number != 1) == number
    store.aliases.put(task, "canary", 2, backbone_digest=BACKBONE, now=1.0)
    store.aliases.put(task, "steady", 1, pinned=True, backbone_digest=BACKBONE, now=1.0)
    served = store.aliases.served(BACKBONE)
    assert [(each.task_id, each.version) for each in served] == [(task.id, 1), (task.id, 2)]
    pointing = [[(alias.name, alias.pinned) for alias in each.aliases] for each in served]
    assert pointing == [[("steady", True)], [("canary", False), (PRODUCTION, False)]]
    assert [each.version for each in store.aliases.served(OTHER_BACKBONE)] == [3]
    assert store.aliases.backbones() == {BACKBONE: 1, OTHER_BACKBONE: 1}

    store.runs.create("acme", new_run(theirs), now=1.0)
    run = store.runs.claim(60, 3)
    assert run is not None
    store.runs.publish(run.id, run.attempt, new_version(), publish=True, reason="told to")
    of_both = [(each.tenant, each.task_name) for each in store.aliases.served(BACKBONE)]
    assert of_both == [("acme", "pets"), (TENANT, "birds"), (TENANT, "birds")]
    assert store.aliases.backbones() == {BACKBONE: 2, OTHER_BACKBONE: 1}
