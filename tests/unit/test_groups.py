"""Heads that are asked for together: one session for them, once it is worth it."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
import pytest

from models.errors import InvalidHead
from models.export import head_metadata, head_onnx
from models.head import SMALL, HiddenLayer, LinearHead
from models.head_group import HeadGroup
from models.head_session import HeadSession
from service.inference.batching import HeadRef
from service.inference.groups import AGAIN, MOST_BYTES, MOST_SEEN, HeadGroups
from service.inference.heads import HeadCache
from service.inference.running import run_batch
from tests.unit.batches import BROKEN, GREEN, RED, Shelf, job, mean_colour, trunk

KINDS = ("multiclass", "multilabel", "regression")


@pytest.fixture(scope="module")
def files(tiny) -> list[bytes]:
    """Heads of all kinds and of one to five outputs, one with a hidden layer."""
    random = np.random.default_rng(1)

    def head(number: int) -> bytes:
        kind = KINDS[number % 3]
        classes = 1 if kind == "regression" else 2 + number % 4
        hidden = number == 4
        width = 7 if hidden else tiny.identity.embedding_dim
        labels = () if kind == "regression" else tuple("abcde"[:classes])
        made = LinearHead(
            kind=kind,
            labels=labels,
            weight=random.normal(size=(classes, width)).astype(np.float32),
            bias=random.normal(size=classes).astype(np.float32),
        )
        below = HiddenLayer(
            weight=random.normal(size=(7, tiny.identity.embedding_dim)).astype(np.float32),
            bias=random.normal(size=7).astype(np.float32),
        )
        metadata = head_metadata(
            task=f"task{number}", version=1, kind=kind, labels=labels, identity=tiny.identity
        )
        return head_onnx(made, metadata=metadata, hidden=below if hidden else None)

    return [head(number) for number in range(12)]


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_heads_together_say_bit_for_bit_what_each_says_alone(files, tiny, rows):
    embeddings = np.random.default_rng(rows).normal(size=(rows, 16)).astype(np.float32)
    alone = [HeadSession(data, tiny.identity.digest).run(embeddings) for data in files]
    together = HeadGroup(files).run(embeddings)
    assert [each.shape for each in together] == [each.shape for each in alone]
    assert all((one == other).all() for one, other in zip(together, alone, strict=True))


def test_the_same_head_may_be_there_twice(files):
    embeddings = np.ones((2, 16), np.float32)
    one, other = HeadGroup([files[0], files[0]]).run(embeddings)
    assert (one == other).all()


def test_a_file_that_is_no_head_is_no_part_of_a_group(files):
    with pytest.raises(InvalidHead, match="made otherwise"):
        HeadGroup([files[0], b""])


class Opened:
    """A group that knows which heads it is of."""

    def __init__(self, refs: Sequence[HeadRef]) -> None:
        self.refs = list(refs)

    def run(self, embeddings):
        return [embeddings for _ in self.refs]


def opening(opened: list[Opened], error: Exception | None = None):
    def open_group(refs: Sequence[HeadRef]) -> "Future[Opened]":
        future: Future[Opened] = Future()
        if error is not None:
            future.set_exception(error)
        else:
            opened.append(Opened(refs))
            future.set_result(opened[-1])
        return future

    return open_group


def refs(*names: str) -> list[HeadRef]:
    return [HeadRef(name, name) for name in names]


def test_a_session_is_opened_when_they_are_asked_for_again_and_again():
    opened: list[Opened] = []
    groups = HeadGroups(opening(opened))
    asked = [groups.find(refs(*"abc"), 3) for _ in range(AGAIN + 2)]
    assert asked[: AGAIN - 1] == [None] * (AGAIN - 1)
    assert len(opened) == 1
    assert asked[-1] is opened[0]
    assert groups.find(refs(*"acb"), 3) is None


def test_one_that_cannot_be_opened_is_not_tried_again():
    groups = HeadGroups(opening([], InvalidHead("damaged")))
    assert [groups.find(refs(*"abc"), 3) for _ in range(10)] == [None] * 10


def test_the_least_used_make_room_and_too_large_ones_are_left_alone():
    opened: list[Opened] = []
    groups = HeadGroups(opening(opened))
    half = MOST_BYTES // 2
    for names in ("ab", "cd", "ef"):
        for _ in range(AGAIN):
            groups.find(refs(*names), half)
    assert groups.find(refs(*"ef"), half) is opened[2]
    assert groups.find(refs(*"ab"), half) is None
    assert [groups.find(refs(*"gh"), MOST_BYTES + 1) for _ in range(10)] == [None] * 10


def test_what_was_asked_for_once_is_not_remembered_for_ever():
    groups = HeadGroups(opening([]))
    for number in range(3 * MOST_SEEN):
        groups.find(refs(str(number)), 1)
    assert len(groups._asked) <= MOST_SEEN


def test_a_cache_puts_together_only_what_it_holds(files, tiny):
    blobs = {hashlib.sha256(data).hexdigest(): data for data in files}
    heads = HeadCache(
        blobs.__getitem__,
        lambda data, output: HeadSession(data, tiny.identity.digest, output),
        HeadGroup,
        capacity=20,
        most_bytes=10**6,
    )
    asked = [HeadRef(digest, digest) for digest in blobs]
    assert heads.together(asked) is None
    assert not heads._groups._asked
    for ref in asked:
        heads.get(ref)
    end = AGAIN + 200
    group = next(found for _ in range(end) if (found := waited(heads, asked)) is not None)
    embeddings = np.ones((2, 16), np.float32)
    alone = [heads.get(ref).run(embeddings) for ref in asked]
    assert all((one == other).all() for one, other in zip(group.run(embeddings), alone, strict=True))
    assert heads.together(asked[:3]) is None
    heads.get(asked[0]).size = SMALL
    assert heads.together(asked) is None


def waited(heads: HeadCache, asked: list[HeadRef]):
    heads._pool.submit(lambda: None).result()
    return heads.together(asked)


class Halves:
    """Two heads in one."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails
        self.runs: list[int] = []

    def run(self, embeddings):
        if self.fails:
            raise ZeroDivisionError
        self.runs.append(len(embeddings))
        return [embeddings[:, :1], embeddings[:, 1:2]]


def answers(shelf: Shelf, *jobs):
    return [
        [output.tolist() for output in each.outputs] for each in run_batch(jobs, trunk(mean_colour), shelf)
    ]


def test_jobs_that_want_the_same_heads_run_them_together_once():
    shelf = Shelf()
    jobs = [job((1, 2, 3), heads=(RED, GREEN)), job((4, 5, 6), (7, 8, 9), heads=(RED, GREEN))]
    expected = answers(shelf, *jobs)
    shelf.group = Halves()
    assert answers(shelf, *jobs) == expected == [[[[1]], [[2]]], [[[4], [7]], [[5], [8]]]]
    assert shelf.group.runs == [3]
    assert shelf.asked_together[-1] == (RED, GREEN)


def test_where_one_wants_other_heads_each_runs_over_its_own_rows():
    shelf = Shelf()
    shelf.group = Halves()
    jobs = [job((1, 2, 3), heads=(RED, GREEN)), job((4, 5, 6), heads=(RED,))]
    assert answers(shelf, *jobs) == [[[[1]], [[2]]], [[[4]]]]
    jobs = [job((1, 2, 3), heads=(RED, GREEN)), job((4, 5, 6), heads=(GREEN, RED))]
    assert answers(shelf, *jobs) == [[[[1]], [[2]]], [[[5]], [[4]]]]
    assert shelf.asked_together == []


def test_a_group_that_fails_leaves_its_heads_to_run_one_by_one():
    shelf = Shelf()
    shelf.group = Halves(fails=True)
    (answer,) = run_batch([job((1, 2, 3), heads=(RED, BROKEN))], trunk(mean_colour), shelf)
    assert answer.outputs[0].tolist() == [[1]]
    assert isinstance(answer.outputs[1], InvalidHead)
