import pytest

from service.errors import InvalidField, LabelConflict, UnknownExample, UnknownLabel, UnknownTask
from service.store import Store
from service.store.records import AddResult, Example, NewExample, Task
from tests.integration.store.values import BACKBONE, TENANT, digest, new_example


def add(store: Store, task: Task, *items: NewExample) -> list[AddResult]:
    return store.examples.add(task, items, backbone_digest=BACKBONE, now=2.0)


def add_one(store: Store, task: Task, item: NewExample) -> Example:
    [result] = add(store, task, item)
    assert result.error is None
    assert result.example_id is not None
    return store.examples.get(task, result.example_id)


def revision(store: Store, task: Task) -> int:
    return store.tasks.get_by_id(task.id).data_revision


def test_an_added_example_comes_back_as_it_was(store: Store, task: Task) -> None:
    item = new_example("1", "cat", group="cage 7", split="test", perceptual_hash=2**63)
    example = add_one(store, task, item)
    same = (
        "image_digest", "blob_key", "media_type", "filename", "width", "height", "size", "perceptual_hash",
        "labels", "value", "group", "split",
    )  # fmt: skip
    assert {name: getattr(example, name) for name in same} == {name: getattr(item, name) for name in same}
    assert example.task_id == task.id
    assert example.split_by_user
    assert example.created_at == 2.0


def test_labels_make_the_classes_of_an_open_task(store: Store, task: Task) -> None:
    add(store, task, new_example("1", "zebra"), new_example("2", "ant"), new_example("3", "zebra"))
    grown = store.tasks.get_by_id(task.id)
    assert grown.classes == ("zebra", "ant"), "in the order of their first use"
    assert grown.revision == task.revision + 1


def test_an_unknown_label_of_a_closed_task_fails_alone(store: Store) -> None:
    task = store.tasks.create(TENANT, "closed", "multiclass", ("cat",), now=1.0)
    good, bad, also_good = add(
        store, task, new_example("1", "cat"), new_example("2", "dog"), new_example("3", "cat")
    )
    assert (good.status, also_good.status) == ("created", "created")
    assert bad.status is None
    assert isinstance(bad.error, UnknownLabel)
    assert len(store.examples.for_training(task)) == 2
    assert store.tasks.get_by_id(task.id).classes == ("cat",)


def test_the_same_image_with_the_same_label_is_a_duplicate(store: Store, task: Task) -> None:
    first = add_one(store, task, new_example("1", "cat"))
    before = revision(store, task)
    for again in (new_example("1", "cat"), new_example("1")):
        assert add(store, task, again) == [AddResult(status="duplicate", example_id=first.id)]
    assert revision(store, task) == before


def test_the_same_image_with_another_label_is_a_conflict_and_the_old_one_stays(
    store: Store, task: Task
) -> None:
    first = add_one(store, task, new_example("1", "cat"))
    before = revision(store, task)
    [result] = add(store, task, new_example("1", "dog"))
    assert (result.status, result.example_id) == ("conflict", first.id)
    assert isinstance(result.error, LabelConflict)
    assert result.error.example == first.id
    assert store.examples.get(task, first.id) == first
    assert revision(store, task) == before
    assert store.tasks.get_by_id(task.id).classes == ("cat",), "a conflict makes no class"


def test_a_label_fills_in_an_image_that_had_none(store: Store, task: Task) -> None:
    first = add_one(store, task, new_example("1"))
    before = revision(store, task)
    [result] = add(store, task, new_example("1", "cat", group="g", split="train"))
    assert result == AddResult(status="duplicate", example_id=first.id)
    filled = store.examples.get(task, first.id)
    assert (filled.labels, filled.group, filled.split, filled.split_by_user) == (("cat",), "g", "train", True)
    assert filled.blob_key == first.blob_key
    assert revision(store, task) == before + 1


def test_one_batch_meets_itself(store: Store, task: Task) -> None:
    items = [new_example("1"), new_example("1", "cat"), new_example("1", "dog"), new_example("1", "cat")]
    assert [result.status for result in add(store, task, *items)] == [
        "created", "duplicate", "conflict", "duplicate",
    ]  # fmt: skip
    [example] = store.examples.for_training(task)
    assert example.labels == ("cat",)


def test_the_same_image_in_two_tasks_is_two_examples(store: Store, task: Task) -> None:
    other = store.tasks.create(TENANT, "other", "multiclass", now=1.0)
    add_one(store, task, new_example("1", "cat"))
    assert add_one(store, other, new_example("1", "dog")).labels == ("dog",)


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("multiclass", {"labels": ()}),
        ("multiclass", {"labels": ("a", "b")}),
        ("multiclass", {"value": 1.0}),
        ("multilabel", {"labels": ("a", "a")}),
        ("multilabel", {"labels": ("",)}),
        ("multilabel", {"labels": ("a\0",)}),
        ("regression", {"labels": ("a",)}),
        ("regression", {"value": float("nan")}),
        ("regression", {"value": float("inf")}),
        ("regression", {"value": 1.0, "group": "\udcff"}),
    ],
    ids=str,
)
def test_a_target_of_another_kind_is_never_written(store: Store, kind, target) -> None:
    task = store.tasks.create(TENANT, "task", kind, now=1.0)
    [result] = add(store, task, new_example("1", **target))
    assert isinstance(result.error, InvalidField)
    assert store.examples.list(task, limit=5).data == []


def test_a_multilabel_example_may_have_no_class_and_is_labelled(store: Store) -> None:
    task = store.tasks.create(TENANT, "scene", "multilabel", now=1.0)
    none = add_one(store, task, new_example("1", ()))
    many = add_one(store, task, new_example("2", ("sea", "sand")))
    unlabelled = add_one(store, task, new_example("3"))
    assert (none.labels, many.labels, unlabelled.labels) == ((), ("sea", "sand"), None)
    assert [example.id for example in store.examples.for_training(task)] == [none.id, many.id]
    assert add(store, task, new_example("2", ("sand", "sea")))[0].status == "duplicate", "a set, not a list"
    assert add(store, task, new_example("1", ("sea",)))[0].status == "conflict"


def test_a_regression_example_keeps_its_value(store: Store) -> None:
    task = store.tasks.create(TENANT, "age", "regression", now=1.0)
    example = add_one(store, task, new_example("1", value=0.1))
    assert (example.value, example.labels, example.labelled) == (0.1, None, True)
    assert add(store, task, new_example("1", value=0.1))[0].status == "duplicate"
    assert add(store, task, new_example("1", value=0.2))[0].status == "conflict"


def test_adding_to_a_deleted_task_says_so(store: Store, task: Task) -> None:
    store.tasks.delete(TENANT, task.name)
    with pytest.raises(UnknownTask):
        add(store, task, new_example("1", "cat"))


def test_a_large_batch_is_one_batch(store: Store, task: Task) -> None:
    """More rows than one IN list holds."""
    items = [new_example(str(number), f"class {number % 7}") for number in range(1300)]
    assert {result.status for result in add(store, task, *items)} == {"created"}
    assert {result.status for result in add(store, task, *items)} == {"duplicate"}
    training = store.examples.for_training(task)
    assert [example.image_digest for example in training] == [item.image_digest for item in items]
    assert all(example.labels for example in training)


def test_lists_are_newest_first_and_filtered(store: Store, task: Task) -> None:
    add(
        store, task,
        new_example("1", "cat", group="g"), new_example("2", "dog", split="test"), new_example("3"),
        new_example("4", "cat", split="train"),
    )  # fmt: skip

    def found(**filters: object) -> list[str]:
        return [example.filename or "" for example in store.examples.list(task, limit=9, **filters).data]

    assert found() == ["4.png", "3.png", "2.png", "1.png"]
    assert found(label="cat") == ["4.png", "1.png"]
    assert found(label="mouse") == []
    assert found(split="test") == ["2.png"]
    assert found(labelled=False) == ["3.png"]
    assert found(labelled=True, label="cat", group="g") == ["1.png"]


def test_pages_follow_each_other_while_examples_arrive(store: Store, task: Task) -> None:
    add(store, task, *(new_example(str(number), "cat") for number in range(5)))
    first = store.examples.list(task, limit=2)
    add(store, task, new_example("newer", "cat"))
    second = store.examples.list(task, limit=2, after=first.next)
    third = store.examples.list(task, limit=2, after=second.next)
    names = [example.filename for page in (first, second, third) for example in page.data]
    assert names == ["4.png", "3.png", "2.png", "1.png", "0.png"]
    assert third.next is None


def test_relabelling_keeps_the_split(store: Store, task: Task) -> None:
    example = add_one(store, task, new_example("1", "cat"))
    store.examples.assign_splits(task, {example.id: "test"})
    before = revision(store, task)
    changed = store.examples.update(task, example.id, labels=("dog",), now=3.0)
    assert (changed.labels, changed.split, changed.split_by_user) == (("dog",), "test", False)
    assert revision(store, task) == before + 1
    assert store.tasks.get_by_id(task.id).classes == ("cat", "dog")


def test_a_change_says_only_what_it_names(store: Store, task: Task) -> None:
    example = add_one(store, task, new_example("1", "cat", group="g", split="train"))
    assert store.examples.update(task, example.id, now=3.0) == example
    assert store.examples.update(task, example.id, group=None, now=3.0).group is None
    cleared = store.examples.update(task, example.id, split=None, now=3.0)
    assert (cleared.split, cleared.split_by_user, cleared.labels) == (None, False, ("cat",))


def test_taking_a_label_away_is_a_change_for_training(store: Store, task: Task) -> None:
    example = add_one(store, task, new_example("1", "cat"))
    before = revision(store, task)
    assert store.examples.update(task, example.id, labels=None, now=3.0).labels is None
    assert revision(store, task) == before + 1
    assert store.examples.for_training(task) == []
    store.tasks.update(TENANT, task.name, remove_classes=["cat"], now=4.0)  # nothing holds it any more


def test_a_change_that_a_training_would_not_see_is_no_new_data(store: Store, task: Task) -> None:
    labelled, unlabelled = (
        add_one(store, task, new_example("1", "cat")),
        add_one(store, task, new_example("2")),
    )
    before = revision(store, task)
    store.examples.update(task, labelled.id, labels=("cat",), now=3.0)
    store.examples.update(task, unlabelled.id, group="g", split="test", now=3.0)
    assert revision(store, task) == before


@pytest.mark.parametrize(
    "change",
    [{"labels": ("cat", "dog")}, {"labels": ()}, {"value": 1.0}, {"labels": ("",)}, {"group": "\0"}],
    ids=str,
)
def test_a_change_that_cannot_be_changes_nothing(store: Store, task: Task, change) -> None:
    example = add_one(store, task, new_example("1", "cat"))
    with pytest.raises(InvalidField):
        store.examples.update(task, example.id, **change, now=3.0)
    assert store.examples.get(task, example.id) == example


def test_relabelling_in_a_closed_task_takes_its_classes_only(store: Store) -> None:
    task = store.tasks.create(TENANT, "closed", "multiclass", ("cat",), now=1.0)
    example = add_one(store, task, new_example("1", "cat"))
    with pytest.raises(UnknownLabel):
        store.examples.update(task, example.id, labels=("dog",), now=3.0)


def test_an_example_is_its_own_task_s(store: Store, task: Task) -> None:
    other = store.tasks.create(TENANT, "other", "multiclass", now=1.0)
    example = add_one(store, task, new_example("1", "cat"))
    for attempt in (
        lambda: store.examples.get(other, example.id),
        lambda: store.examples.delete(other, example.id),
        lambda: store.examples.update(other, example.id, labels=("dog",), now=3.0),
    ):
        with pytest.raises(UnknownExample):
            attempt()


def test_a_deleted_example_takes_its_embedding_along(store: Store, task: Task) -> None:
    example = add_one(store, task, new_example("1", "cat", embedding=b"v" * 8))
    before = revision(store, task)
    assert store.examples.delete(task, example.id) == example
    assert store.embeddings.get_many(TENANT, [digest("1")], BACKBONE) == {}
    assert revision(store, task) == before + 1
    with pytest.raises(UnknownExample):
        store.examples.delete(task, example.id)


def test_a_deleted_example_leaves_the_embedding_that_another_task_uses(store: Store, task: Task) -> None:
    other = store.tasks.create(TENANT, "other", "multiclass", now=1.0)
    foreign = store.tasks.create("another", "foreign", "multiclass", now=1.0)
    example = add_one(store, task, new_example("1", "cat", embedding=b"v" * 8))
    theirs = add_one(store, other, new_example("1", "cat"))
    add_one(store, foreign, new_example("1", "cat", embedding=b"f" * 8))
    store.examples.delete(task, example.id)
    assert store.embeddings.get_many(TENANT, [digest("1")], BACKBONE) == {digest("1"): b"v" * 8}
    store.examples.delete(other, theirs.id)
    assert store.embeddings.get_many(TENANT, [digest("1")], BACKBONE) == {}
    assert store.embeddings.get_many("another", [digest("1")], BACKBONE) == {digest("1"): b"f" * 8}


def test_an_assigned_split_stays(store: Store, task: Task) -> None:
    given = add_one(store, task, new_example("1", "cat", split="test"))
    free = add_one(store, task, new_example("2", "cat"))
    before = revision(store, task)
    store.examples.assign_splits(task, {given.id: "train", free.id: "validation"})
    store.examples.assign_splits(task, {free.id: "train"})
    assert store.examples.get(task, given.id).split == "test"
    assigned = store.examples.get(task, free.id)
    assert (assigned.split, assigned.split_by_user) == ("validation", False)
    assert revision(store, task) == before, "assigning is part of a training, not new data for it"


def test_which_of_some_examples_are_there_still(store: Store, task: Task) -> None:
    ids = [result.example_id for result in add(store, task, new_example("a"), new_example("b"))]
    store.examples.delete(task, ids[0])
    assert store.examples.which_exist(task, [*ids, "ex_none"]) == {ids[1]}
    assert store.examples.which_exist(task, []) == set()


def test_the_splits_in_use_are_those_of_labelled_examples(store: Store, task: Task) -> None:
    assert store.examples.splits_in_use(task) == set()
    add(store, task, new_example("a", "cat", split="test"), new_example("b", split="train"))
    assert store.examples.splits_in_use(task) == {"test"}
    add(store, task, new_example("c", "cat"))
    assert store.examples.splits_in_use(task) == {"test", None}
