import pytest
from sqlalchemy import event

from service.errors import (
    ClassInUse,
    Conflict,
    InvalidField,
    StaleETag,
    TaskExists,
    UnknownTask,
)
from service.store import Store
from service.store.records import Task
from tests.integration.store.values import BACKBONE, OTHER_BACKBONE, TENANT, digest, new_example, new_run


def test_a_task_is_found_by_name_and_by_id(store: Store) -> None:
    created = store.tasks.create(
        TENANT, "pets", "multiclass", ("dog", "cat"), description="whose paw?", now=5.0
    )
    assert store.tasks.get(TENANT, "pets") == created
    assert store.tasks.get_by_id(created.id) == created
    assert created.classes == ("dog", "cat")
    assert created.closed
    assert created.created_at == created.updated_at == 5.0


def test_a_name_is_taken_once_in_a_tenant(store: Store, task: Task) -> None:
    with pytest.raises(TaskExists):
        store.tasks.create(TENANT, task.name, "regression", now=2.0)
    other = store.tasks.create("another", task.name, "regression", now=2.0)
    assert other.id != task.id
    assert store.tasks.get("another", task.name).kind == "regression"
    assert store.tasks.get(TENANT, task.name).kind == "multiclass"


def test_a_name_can_be_used_again_and_the_id_cannot(store: Store, task: Task) -> None:
    store.tasks.delete(TENANT, task.name)
    again = store.tasks.create(TENANT, task.name, "multiclass", now=2.0)
    assert again.id != task.id
    with pytest.raises(UnknownTask):
        store.tasks.get_by_id(task.id)


@pytest.mark.parametrize(
    "name", ["", "-a", "A", "a_b", "a/b", "a" * 64, "é", "a\n"], ids=lambda name: repr(name)[:12]
)
def test_a_name_outside_the_alphabet_is_refused(store: Store, name: str) -> None:
    with pytest.raises(InvalidField):
        store.tasks.create(TENANT, name, "multiclass", now=1.0)


@pytest.mark.parametrize(
    ("kind", "classes"),
    [
        ("regression", ("a",)),
        ("multiclass", ()),
        ("multiclass", ("a", "a")),
        ("multilabel", ("",)),
        ("multilabel", ("x" * 129,)),
        ("multilabel", ("nul\0",)),
        ("multilabel", ("\ud800",)),
    ],
    ids=["regression", "none", "twice", "empty", "long", "nul", "surrogate"],
)
def test_classes_that_cannot_be_are_refused_and_nothing_is_made(store: Store, kind, classes) -> None:
    with pytest.raises(InvalidField):
        store.tasks.create(TENANT, "task", kind, classes, now=1.0)
    assert store.tasks.list(TENANT, limit=5).data == []


def test_tasks_are_listed_newest_first_page_by_page(store: Store) -> None:
    names = [f"task-{number}" for number in range(5)]
    for name in names:
        store.tasks.create(TENANT, name, "multiclass", ("a", "b"), now=1.0)
    store.tasks.create("another", "foreign", "multiclass", now=1.0)
    first = store.tasks.list(TENANT, limit=3)
    rest = store.tasks.list(TENANT, limit=3, after=first.next)
    assert [task.name for task in (*first.data, *rest.data)] == names[::-1]
    assert rest.next is None
    assert all(task.classes == ("a", "b") for task in first.data)


def test_a_change_of_the_description_is_a_revision_and_no_new_data(store: Store, task: Task) -> None:
    changed = store.tasks.update(TENANT, task.name, description="new", now=9.0)
    assert (changed.description, changed.revision, changed.updated_at) == ("new", task.revision + 1, 9.0)
    assert changed.data_revision == task.data_revision
    assert store.tasks.get(TENANT, task.name) == changed


def test_a_change_that_changes_nothing_keeps_the_revision(store: Store) -> None:
    task = store.tasks.create(TENANT, "pets", "multiclass", ("cat", "dog"), description="d", now=1.0)
    same = store.tasks.update(TENANT, "pets", description="d", rename_classes={"cat": "cat"}, now=2.0)
    assert same == task


def test_a_stale_etag_changes_and_deletes_nothing(store: Store, task: Task) -> None:
    store.tasks.update(TENANT, task.name, description="first", if_match=task.revision, now=2.0)
    with pytest.raises(StaleETag):
        store.tasks.update(TENANT, task.name, description="second", if_match=task.revision, now=3.0)
    with pytest.raises(StaleETag):
        store.tasks.delete(TENANT, task.name, if_match=task.revision)
    assert store.tasks.get(TENANT, task.name).description == "first"


def test_a_renamed_class_renames_the_labels_of_its_examples(store: Store, task: Task) -> None:
    store.examples.add(
        task, [new_example("1", "cat"), new_example("2", "dog")], backbone_digest=BACKBONE, now=2
    )
    before = store.tasks.get(TENANT, task.name)
    after = store.tasks.update(TENANT, task.name, rename_classes={"cat": "Katze"}, now=3.0)
    assert after.classes == ("Katze", "dog")
    assert after.data_revision == before.data_revision + 1
    assert [example.labels for example in store.examples.for_training(task)] == [("Katze",), ("dog",)]


def test_two_classes_can_swap_names(store: Store) -> None:
    store.tasks.create(TENANT, "pets", "multiclass", ("cat", "dog"), now=1.0)
    swapped = store.tasks.update(TENANT, "pets", rename_classes={"cat": "dog", "dog": "cat"}, now=2.0)
    assert swapped.classes == ("dog", "cat")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"rename_classes": {"cat": "dog"}}, Conflict),
        ({"rename_classes": {"cat": "new", "dog": "new"}}, Conflict),
        ({"rename_classes": {"mouse": "rat"}}, InvalidField),
        ({"rename_classes": {"cat": ""}}, InvalidField),
        ({"add_classes": ["cat"]}, Conflict),
        ({"add_classes": ["new", "new"]}, Conflict),
        ({"add_classes": [""]}, InvalidField),
        ({"remove_classes": ["mouse"]}, InvalidField),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else value.__name__,
)
def test_a_change_of_classes_that_cannot_be_changes_nothing(store: Store, change, error) -> None:
    task = store.tasks.create(TENANT, "pets", "multiclass", ("cat", "dog"), now=1.0)
    with pytest.raises(error) as caught:
        store.tasks.update(TENANT, "pets", description="changed", **change, now=2.0)
    assert type(caught.value) is error
    assert store.tasks.get(TENANT, "pets") == task


def test_a_class_with_examples_stays(store: Store, task: Task) -> None:
    store.examples.add(
        task, [new_example("1", "cat"), new_example("2", "dog")], backbone_digest=BACKBONE, now=2.0
    )
    with pytest.raises(ClassInUse, match="'cat' has 1 examples"):
        store.tasks.update(TENANT, task.name, remove_classes=["cat"], now=3.0)
    [cat] = store.examples.list(task, label="cat", limit=5).data
    store.examples.delete(task, cat.id)
    assert store.tasks.update(TENANT, task.name, remove_classes=["cat"], now=4.0).classes == ("dog",)


def test_an_added_class_comes_last_even_after_a_removal(store: Store) -> None:
    store.tasks.create(TENANT, "pets", "multiclass", ("a", "b", "c"), now=1.0)
    changed = store.tasks.update(TENANT, "pets", remove_classes=["a"], add_classes=["a"], now=2.0)
    assert changed.classes == ("b", "c", "a")


def test_a_regression_task_takes_no_classes(store: Store) -> None:
    store.tasks.create(TENANT, "age", "regression", now=1.0)
    with pytest.raises(InvalidField):
        store.tasks.update(TENANT, "age", add_classes=["old"], now=2.0)


def test_many_tasks_are_summed_up_in_as_many_statements_as_one(store: Store, task: Task, publish) -> None:
    tasks = [store.tasks.create(TENANT, f"task-{number}", "multiclass", now=1.0) for number in range(5)]
    for number, each in enumerate(tasks):
        items = [new_example(f"{each.name}-{n}", ("cat", "dog")[n % 2]) for n in range(number)]
        store.examples.add(each, items, backbone_digest=BACKBONE, now=1.0)
    publish(tasks[3], data_revision=1)
    publish(tasks[3], data_revision=0, move=False)
    publish(tasks[4], data_revision=1)
    store.runs.create(TENANT, new_run(tasks[2]), now=1.0)
    executed: list[str] = []
    event.listen(store.database.engine, "before_cursor_execute", lambda *said: executed.append(said[2]))
    alone = {each.id: store.tasks.summary(each, BACKBONE) for each in tasks}
    each_alone = len(executed)
    together = store.tasks.summaries(tasks, BACKBONE)
    assert together == alone
    assert len(executed) - each_alone == each_alone / len(tasks)
    found = [together[each.id] for each in tasks]
    assert [each.examples for each in found] == [0, 1, 2, 3, 4]
    assert [each.versions for each in found] == [0, 0, 0, 2, 1]
    assert [each.production for each in found] == [None, None, None, 1, 1]
    assert [each.needs_training for each in found] == [False, True, True, True, False]
    assert [each.active_run is not None for each in found] == [False, False, True, False, False]
    assert store.tasks.summaries([], BACKBONE) == {}


def test_a_summary_counts_what_the_task_holds(store: Store, task: Task, publish) -> None:
    items = [new_example("1", "cat"), new_example("2", "cat"), new_example("3", "dog"), new_example("4")]
    store.examples.add(task, items, backbone_digest=BACKBONE, now=2.0)
    store.tasks.update(TENANT, task.name, add_classes=["mouse"], now=3.0)
    summary = store.tasks.summary(task, BACKBONE)
    assert (summary.examples, summary.labelled) == (4, 3)
    assert summary.per_class == {"cat": 2, "dog": 1, "mouse": 0}
    assert (summary.versions, summary.production, summary.active_run) == (0, None, None)
    assert summary.needs_training


def test_a_task_needs_training_until_a_version_has_seen_all_its_data(
    store: Store, task: Task, publish
) -> None:
    store.examples.add(task, [new_example("1", "cat")], backbone_digest=BACKBONE, now=2.0)
    publish(task, data_revision=store.tasks.get_by_id(task.id).data_revision)
    assert not store.tasks.summary(task, BACKBONE).needs_training
    assert store.tasks.summary(task, BACKBONE).production == 1
    store.examples.add(task, [new_example("2")], backbone_digest=BACKBONE, now=3.0)
    assert not store.tasks.summary(task, BACKBONE).needs_training, "an unlabelled image teaches nothing"
    store.tasks.update(TENANT, task.name, rename_classes={"cat": "Katze"}, now=4.0)
    assert store.tasks.summary(task, BACKBONE).needs_training


def test_a_new_backbone_needs_training_beside_the_old_one(store: Store, task: Task, publish) -> None:
    store.examples.add(task, [new_example("1", "cat")], backbone_digest=BACKBONE, now=2.0)
    publish(task, data_revision=store.tasks.get_by_id(task.id).data_revision)
    summary = store.tasks.summary(task, OTHER_BACKBONE)
    assert (summary.needs_training, summary.production, summary.versions) == (True, None, 1)


def test_an_empty_task_needs_no_training_and_an_active_run_is_named(store: Store, task: Task) -> None:
    assert not store.tasks.summary(task, BACKBONE).needs_training
    run = store.runs.create(TENANT, new_run(task), now=2.0)
    assert store.tasks.summary(task, BACKBONE).active_run == run.id


def test_a_deleted_task_leaves_nothing_behind(store: Store, task: Task, publish) -> None:
    """Rows of every table that hangs on a task are gone, also while a run is active."""
    store.examples.add(
        task, [new_example("1", "cat", embedding=b"\0" * 8)], backbone_digest=BACKBONE, now=2.0
    )
    publish(task)
    run = store.runs.create(TENANT, new_run(task), now=3.0)
    store.tasks.delete(TENANT, task.name)
    with store.database.read() as connection:
        from service.store.tables import alias_changes, metadata  # noqa: PLC0415

        left = {
            table.name: connection.execute(table.select()).all()
            for table in metadata.sorted_tables
            if table is not alias_changes and connection.execute(table.select()).all()  # counts, of no task
        }
    assert left == {}
    with pytest.raises(UnknownTask):
        store.tasks.delete(TENANT, task.name)
    with pytest.raises(UnknownTask):
        store.runs.create(TENANT, new_run(task), now=4.0)
    assert run.task_id == task.id


def test_deleting_a_task_keeps_embeddings_that_another_task_uses(store: Store, task: Task) -> None:
    other = store.tasks.create(TENANT, "other", "multilabel", now=1.0)
    shared, own = (
        new_example("shared", "cat", embedding=b"s" * 8),
        new_example("own", "cat", embedding=b"o" * 8),
    )
    store.examples.add(task, [shared, own], backbone_digest=BACKBONE, now=2.0)
    store.examples.add(other, [shared], backbone_digest=BACKBONE, now=2.0)
    store.tasks.delete(TENANT, task.name)
    left = store.embeddings.get_many(TENANT, [digest("shared"), digest("own")], BACKBONE)
    assert left == {digest("shared"): b"s" * 8}
