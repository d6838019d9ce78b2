"""Random uploads, relabellings and deletions, compared with a dictionary after each."""

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from service.store import open_store
from service.store.records import SplitName
from tests.integration.store.values import BACKBONE, TENANT, digest, new_example
from tests.stores import CLUSTER, ONE_MACHINE, Pair

IMAGES = st.sampled_from("abcdefgh")
LABELS = st.sampled_from(["cat", "dog", "ü"])
MAYBE_LABELS = st.none() | LABELS
SPLITS = st.sampled_from(["train", "validation", "test"])
UPLOADS = st.lists(st.tuples(IMAGES, MAYBE_LABELS, st.none() | SPLITS), max_size=6)


@dataclass
class Known:
    """What the dictionary holds of an image."""

    id: str
    label: str | None
    split: SplitName | None
    by_user: bool


class Examples(RuleBasedStateMachine):
    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.open = ExitStack()
        self.store = open_store(self.open.enter_context(pair.database()), pair.blobs())
        self.open.callback(self.store.close)
        self.task = self.store.tasks.create(TENANT, "pets", "multiclass", now=1.0)
        self.model: dict[str, Known] = {}
        self.classes: list[str] = []
        self.data_revision = 0

    def teardown(self) -> None:
        self.open.close()

    @rule(uploads=UPLOADS)
    def add(self, uploads: list[tuple[str, str | None, SplitName | None]]) -> None:
        items = [
            new_example(image, label, split=split, embedding=image.encode() * 8)
            for image, label, split in uploads
        ]
        results = self.store.examples.add(self.task, items, backbone_digest=BACKBONE, now=2.0)
        changed = False
        for (image, label, split), result in zip(uploads, results, strict=True):
            known = self.model.get(image)
            expected = "duplicate"
            if known is None:
                expected = "created"
                assert result.example_id is not None
                known = Known(result.example_id, label, split, by_user=split is not None)
                self.model[image] = known
                changed |= label is not None
                self.learn(label)
            elif known.label is None and label is not None:
                known.label = label
                if known.split is None and split is not None:
                    known.split, known.by_user = split, True
                changed = True
                self.learn(label)
            elif label is not None and label != known.label:
                expected = "conflict"
            assert (result.status, result.example_id) == (expected, known.id)
        self.data_revision += changed

    @precondition(lambda self: self.model)
    @rule(data=st.data(), label=MAYBE_LABELS)
    def relabel(self, data: st.DataObject, label: str | None) -> None:
        known = data.draw(st.sampled_from(list(self.model.values())))
        labels = None if label is None else (label,)
        self.store.examples.update(self.task, known.id, labels=labels, now=3.0)
        self.data_revision += label != known.label
        known.label = label
        self.learn(label)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        image = data.draw(st.sampled_from(list(self.model)))
        known = self.model.pop(image)
        self.store.examples.delete(self.task, known.id)
        self.data_revision += known.label is not None

    @rule(split=SPLITS)
    def assign(self, split: SplitName) -> None:
        self.store.examples.assign_splits(self.task, {known.id: split for known in self.model.values()})
        for known in self.model.values():
            known.split = known.split or split

    @rule()
    def rename(self) -> None:
        """Swap the first two classes."""
        if len(self.classes) < 2:
            return
        first, second, *others = self.classes
        swap = {first: second, second: first}
        self.store.tasks.update(TENANT, "pets", rename_classes=swap, now=4.0)
        self.classes = [second, first, *others]
        for known in self.model.values():
            known.label = swap.get(known.label or "", known.label)
        self.data_revision += 1

    def learn(self, label: str | None) -> None:
        if label is not None and label not in self.classes:
            self.classes.append(label)

    @invariant()
    def the_store_holds_what_the_dictionary_holds(self) -> None:
        found = {
            example.id: (example.image_digest, example.labels, example.split, example.split_by_user)
            for example in self.store.examples.list(self.task, limit=99).data
        }
        assert found == {
            known.id: (digest(image), known.label and (known.label,), known.split, known.by_user)
            for image, known in self.model.items()
        }

    @invariant()
    def the_counts_are_the_dictionary_s(self) -> None:
        labels = [known.label for known in self.model.values()]
        summary = self.store.tasks.summary(self.task, BACKBONE)
        assert summary.per_class == {label: labels.count(label) for label in self.classes}
        task = self.store.tasks.get(TENANT, "pets")
        assert task.classes == tuple(self.classes)
        assert task.data_revision == self.data_revision

    @invariant()
    def every_image_and_no_other_has_its_embedding(self) -> None:
        digests = [digest(image) for image in "abcdefgh"]
        found = self.store.embeddings.get_many(TENANT, digests, BACKBONE)
        assert found == {digest(image): image.encode() * 8 for image in self.model}


@pytest.mark.parametrize(("pair", "rounds"), [(ONE_MACHINE, 25), (CLUSTER, 6)], indirect=["pair"])
def test_the_store_agrees_with_a_dictionary_after_any_changes(pair: Pair, rounds: int) -> None:
    """Fewer where every statement is a round trip."""
    run_state_machine_as_test(
        partial(Examples, pair),
        settings=settings(
            max_examples=rounds,
            stateful_step_count=20,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
