from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import pytest

from service.errors import InvalidField, UnknownVersion
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


def claim(store: Store, task: Task) -> tuple[str, int]:
    store.runs.create(TENANT, new_run(task), now=1.0)
    run = store.runs.claim(60, 3)
    assert run is not None
    return run.id, run.attempt


def test_a_published_version_is_what_was_trained(store: Store, task: Task) -> None:
    run = claim(store, task)
    said = new_version(kind="multilabel", labels=("ü", "b"), threshold=0.25, history=[], seed=2**40)
    number = store.runs.publish(*run, said, publish=True, reason="the task's first version")
    version = store.versions.get(task, number)
    assert {name: getattr(version, name) for name in asdict(said)} == {
        name: getattr(said, name) for name in asdict(said)
    }
    assert (version.task_id, version.number, version.run_id) == (task.id, 1, run[0])
    ended = store.runs.get(TENANT, run[0])
    assert (ended.state, ended.version, ended.published) == ("succeeded", 1, True)
    assert ended.published_reason == "the task's first version"
    assert store.aliases.get(task, PRODUCTION, BACKBONE).version == 1
    last = store.runs.events(run[0], after=0, limit=99)[-1].data
    assert (last["state"], last["version"], last["published"]) == ("succeeded", 1, True)


def test_a_version_that_is_not_published_is_there_and_not_served(store: Store, task: Task, publish) -> None:
    publish(task)
    run = claim(store, task)
    store.runs.publish(*run, new_version(), publish=False, reason="it is no better")
    assert store.aliases.get(task, PRODUCTION, BACKBONE).version == 1
    ended = store.runs.get(TENANT, run[0])
    assert (ended.version, ended.published, ended.published_reason) == (2, False, "it is no better")


def test_a_pinned_production_is_not_moved(store: Store, task: Task, publish) -> None:
    publish(task)
    store.aliases.put(task, PRODUCTION, 1, pinned=True, backbone_digest=BACKBONE, now=2.0)
    run = claim(store, task)
    store.runs.publish(*run, new_version(), publish=True, reason="it is better")
    ended = store.runs.get(TENANT, run[0])
    assert (ended.version, ended.published) == (2, False)
    assert "pinned" in (ended.published_reason or "")
    assert store.aliases.get(task, PRODUCTION, BACKBONE).version == 1


def test_a_pointer_that_a_user_has_moved_meanwhile_stays(store: Store, task: Task, publish) -> None:
    """The trainer decided when `production` was nowhere; a user was faster."""
    publish(task, move=False)
    run = claim(store, task)
    store.aliases.put(task, PRODUCTION, 1, backbone_digest=BACKBONE, now=2.0)
    store.runs.publish(*run, new_version(), publish=True, reason="first", seen_production=None)
    assert store.aliases.get(task, PRODUCTION, BACKBONE).version == 1
    run = claim(store, task)
    store.runs.publish(*run, new_version(), publish=True, reason="better", seen_production=1)
    assert store.aliases.get(task, PRODUCTION, BACKBONE).version == 3


def test_numbers_are_never_used_again(store: Store, task: Task, publish) -> None:
    assert publish(task) == 1
    run = claim(store, task)
    assert store.runs.reserve_version(*run) == 2
    assert store.runs.reserve_version(*run) == 2, "one number for each run"
    store.runs.finish(*run, "failed")
    assert publish(task) == 3
    run = claim(store, task)
    assert store.runs.reserve_version(*run) == 4
    assert store.runs.publish(*run, new_version(), publish=False, reason="no") == 4


def test_runs_of_many_tasks_publish_side_by_side(store: Store) -> None:
    tasks = [store.tasks.create(TENANT, f"task-{number}", "multiclass", now=1.0) for number in range(8)]
    claimed = [claim(store, task) for task in tasks]
    with ThreadPoolExecutor(4) as threads:
        numbers = threads.map(
            lambda run: store.runs.publish(*run, new_version(), publish=True, reason="first"), claimed
        )
        assert set(numbers) == {1}
    assert [len(store.versions.list(task, limit=5).data) for task in tasks] == [1] * 8


def test_a_publish_that_fails_leaves_nothing(store: Store, task: Task) -> None:
    """Not a version without a pointer, nor an ended run without a version."""
    run = claim(store, task)
    with pytest.raises(InvalidField):
        store.runs.publish(*run, new_version(metrics={"loss": float("nan")}), publish=True, reason="first")
    assert store.versions.list(task, limit=5).data == []
    assert store.runs.get(TENANT, run[0]).state == "running"
    assert store.runs.publish(*run, new_version(), publish=True, reason="first") == 1


def test_versions_are_listed_newest_first(store: Store, task: Task, publish) -> None:
    for _ in range(5):
        publish(task)
    first = store.versions.list(task, limit=3)
    second = store.versions.list(task, limit=3, after=first.next)
    assert [version.number for version in (*first.data, *second.data)] == [5, 4, 3, 2, 1]
    with pytest.raises(InvalidField):
        store.versions.list(task, limit=3, after="-1")


@pytest.mark.parametrize("number", [0, -1, 2, 2**31, 2**80])
def test_an_unknown_version_is_unknown(store: Store, task: Task, publish, number: int) -> None:
    publish(task)
    with pytest.raises(UnknownVersion):
        store.versions.get(task, number)


def test_a_version_keeps_its_words_when_a_class_is_renamed(store: Store, task: Task, publish) -> None:
    store.examples.add(task, [new_example("1", "cat")], backbone_digest=BACKBONE, now=1.0)
    publish(task)
    store.tasks.update(TENANT, task.name, rename_classes={"cat": "Katze"}, now=2.0)
    assert store.versions.get(task, 1).labels == ("cat", "dog")


def test_an_equal_version_is_found_whatever_the_order_of_its_options(
    store: Store, task: Task, publish
) -> None:
    publish(task, options={"a": 1, "b": {"x": 1, "y": 2}}, data_revision=4)
    publish(task, options={"a": 1, "b": {"x": 1, "y": 2}}, data_revision=4)
    equal = {"b": {"y": 2, "x": 1}, "a": 1}
    assert store.versions.find_equal(task, "head", equal, 4, BACKBONE) == 2
    assert store.versions.find_equal(task, "head", equal, 5, BACKBONE) is None
    assert store.versions.find_equal(task, "head", equal | {"a": 2}, 4, BACKBONE) is None
    assert store.versions.find_equal(task, "lora", equal, 4, BACKBONE) is None
    assert store.versions.find_equal(task, "head", equal, 4, OTHER_BACKBONE) is None


def test_a_version_s_counterpart_on_another_backbone_has_its_recipe_and_no_older_data(
    store: Store, task: Task, publish
) -> None:
    number = publish(task, data_revision=3)
    old = store.versions.get(task, number)
    for unlike in ({"data_revision": 2}, {"data_revision": 3, "options": {"seed": 1}}):
        publish(task, backbone_digest=OTHER_BACKBONE, **unlike)
    assert store.versions.find_counterpart(task, old, OTHER_BACKBONE) is None
    first, newer = (publish(task, backbone_digest=OTHER_BACKBONE, data_revision=at) for at in (3, 4))
    assert first < newer == store.versions.find_counterpart(task, old, OTHER_BACKBONE)
