from service.store import Store
from service.store.records import Task
from tests.integration.store.values import BACKBONE, OTHER_BACKBONE, TENANT, digest, new_example


def test_embeddings_come_back_by_image_backbone_and_tenant(store: Store) -> None:
    vectors = {digest(str(number)): bytes([number % 256]) * 8 for number in range(1200)}
    store.embeddings.put_many(TENANT, vectors, BACKBONE)
    assert store.embeddings.get_many(TENANT, [*vectors, digest("absent")], BACKBONE) == vectors
    assert store.embeddings.get_many(TENANT, list(vectors), OTHER_BACKBONE) == {}
    assert store.embeddings.get_many("another", list(vectors), BACKBONE) == {}


def test_an_embedding_that_is_there_stays(store: Store) -> None:
    store.embeddings.put_many(TENANT, {digest("1"): b"first..."}, BACKBONE)
    store.embeddings.put_many(TENANT, {digest("1"): b"second..", digest("2"): b"new....."}, BACKBONE)
    store.embeddings.put_many(TENANT, {}, BACKBONE)
    found = store.embeddings.get_many(TENANT, [digest("1"), digest("2")], BACKBONE)
    assert found == {digest("1"): b"first...", digest("2"): b"new....."}


def test_missing_embeddings_are_named_oldest_first(store: Store, task: Task) -> None:
    items = [
        new_example("1", "cat"), new_example("2", "cat", embedding=b"v" * 8),
        new_example("3"), new_example("4", "dog"),
    ]  # fmt: skip
    store.examples.add(task, items, backbone_digest=BACKBONE, now=1.0)

    def missing(backbone: str, *, labelled_only: bool, after: str | None = None) -> list[str | None]:
        found = store.embeddings.missing(task, backbone, labelled_only=labelled_only, limit=2, after=after)
        return [example.filename for example in found]

    assert missing(BACKBONE, labelled_only=True) == ["1.png", "4.png"]
    assert missing(BACKBONE, labelled_only=False) == ["1.png", "3.png"]
    assert missing(OTHER_BACKBONE, labelled_only=False) == ["1.png", "2.png"]
    last = store.embeddings.missing(task, OTHER_BACKBONE, labelled_only=False, limit=2)[-1].id
    assert missing(OTHER_BACKBONE, labelled_only=False, after=last) == ["3.png", "4.png"]
    counts = [store.embeddings.count_missing(task, backbone) for backbone in (BACKBONE, OTHER_BACKBONE)]
    assert counts == [3, 4]


def test_a_duplicate_upload_can_bring_the_embedding(store: Store, task: Task) -> None:
    store.examples.add(task, [new_example("1", "cat")], backbone_digest=BACKBONE, now=1.0)
    store.examples.add(task, [new_example("1", "cat", embedding=b"v" * 8)], backbone_digest=BACKBONE, now=2.0)
    assert store.embeddings.missing(task, BACKBONE, labelled_only=True, limit=5) == []
