"""Jobs of many requests become one batch: each gets its own rows back, and its own failures."""

from collections.abc import Callable

import numpy as np
import pytest

from models.arrays import FloatArray, UInt8Array
from models.errors import BackboneError, InvalidHead
from service.errors import UnknownBlob, WorkerFailed
from service.inference.batching import Answer, Features, Head, HeadRef, Job, Trunk, joined, run_batch, split

RED, GREEN, GONE, BROKEN = (HeadRef(name, name) for name in ("red", "green", "gone", "broken"))


def mean_colour(pixels: UInt8Array) -> FloatArray:
    """(N, H, W, 3) -> (N, 3): an embedder that can be checked by eye."""
    return pixels.mean(axis=(1, 2), dtype=np.float32)


def trunk(embed: Callable[[UInt8Array], FloatArray]) -> Trunk:
    """A backbone with one stage, whose feature map is the embedding doubled."""
    give = {"embedding": embed, "stage": lambda pixels: embed(pixels) * 2}
    return Trunk(lambda pixels, outputs: {name: give[name](pixels) for name in outputs}, frozenset(give))


class Channel:
    """A head that answers one of the embedding's numbers, and counts its runs."""

    def __init__(self, channel: int) -> None:
        self.channel = channel
        self.runs: list[int] = []

    def run(self, embeddings: FloatArray) -> FloatArray:
        self.runs.append(len(embeddings))
        return embeddings[:, self.channel : self.channel + 1]


class Broken:
    def run(self, embeddings: FloatArray) -> FloatArray:
        raise ZeroDivisionError(str(len(embeddings)))


class Shelf:
    """The heads of these tests."""

    def __init__(self) -> None:
        self.held: dict[HeadRef, Head] = {RED: Channel(0), GREEN: Channel(1), BROKEN: Broken()}
        self.begun: list[HeadRef] = []

    def begin(self, refs: list[HeadRef]) -> None:
        self.begun += refs

    def get(self, ref: HeadRef) -> Head:
        if ref not in self.held:
            raise UnknownBlob(ref.key)
        return self.held[ref]


def job(*colours: tuple[int, int, int], heads: tuple[HeadRef, ...] = (), embeddings: bool = False) -> Job:
    pixels = np.array(colours, np.uint8).reshape(-1, 1, 1, 3).repeat(4, 1).repeat(4, 2)
    return Job(
        pixels=pixels.tobytes(),
        shape=pixels.shape,
        heads=heads,
        embeddings=embeddings,
        queued_at=0.0,
        deadline=1e12,
    )


def test_one_batch_mixes_tasks_and_runs_the_backbone_once():
    passes: list[int] = []

    def embed(pixels: UInt8Array) -> FloatArray:
        passes.append(len(pixels))
        return mean_colour(pixels)

    jobs = [
        job((10, 20, 30), (40, 50, 60), heads=(RED,)),
        job((70, 80, 90), heads=(GREEN, RED)),
        job((1, 2, 3), embeddings=True),
    ]
    first, second, third = run_batch(jobs, trunk(embed), Shelf())

    assert passes == [4]
    assert isinstance(first, Answer)
    assert isinstance(second, Answer)
    assert isinstance(third, Answer)
    assert [output.tolist() for output in first.outputs] == [[[10.0], [40.0]]]
    assert [output.tolist() for output in second.outputs] == [[[80.0]], [[70.0]]]
    assert first.embeddings is None
    assert third.embeddings.tolist() == [[1.0, 2.0, 3.0]]
    assert third.outputs == ()


def test_a_head_that_several_jobs_ask_for_runs_once_over_all_their_rows():
    shelf = Shelf()
    run_batch(
        [job((1, 1, 1), heads=(RED,)), job((2, 2, 2)), job((3, 3, 3), (4, 4, 4), heads=(RED,))],
        trunk(mean_colour),
        shelf,
    )
    red = shelf.held[RED]
    assert isinstance(red, Channel)
    assert red.runs == [3]


def test_every_head_of_the_batch_is_begun_before_the_backbone_runs():
    """A head that has to come from the store loads while the backbone computes."""
    shelf = Shelf()
    seen: list[HeadRef] = []

    def embed(pixels: UInt8Array) -> FloatArray:
        seen.extend(shelf.begun)
        return mean_colour(pixels)

    run_batch([job((1, 1, 1), heads=(RED, GREEN)), job((1, 1, 1), heads=(GREEN,))], trunk(embed), shelf)
    assert seen == [RED, GREEN]


def test_a_head_that_fails_is_an_error_in_the_answers_that_asked_for_it_alone():
    jobs = [job((1, 2, 3), heads=(GONE, RED)), job((4, 5, 6), heads=(GREEN, BROKEN))]
    first, second = run_batch(jobs, trunk(mean_colour), Shelf())
    assert isinstance(first, Answer)
    assert isinstance(second, Answer)
    assert isinstance(first.outputs[0], UnknownBlob)
    assert first.outputs[1].tolist() == [[1.0]]
    assert second.outputs[0].tolist() == [[5.0]]
    assert isinstance(second.outputs[1], InvalidHead)


def test_a_backbone_that_fails_is_the_answer_of_every_job_and_nothing_is_raised():
    def embed(_pixels: UInt8Array) -> FloatArray:
        raise MemoryError("out of memory")

    answers = run_batch([job((1, 2, 3)), job((1, 2, 3))], trunk(embed), Shelf())
    assert [type(answer) for answer in answers] == [BackboneError, BackboneError]
    assert "out of memory" in str(answers[0])


def test_a_probe_needs_no_backbone():
    def embed(_pixels: UInt8Array) -> FloatArray:
        raise AssertionError("nothing to embed")

    probe = Job(pixels=b"", shape=(0,), heads=(), embeddings=False, queued_at=0.0, deadline=1e12)
    assert run_batch([probe, probe], trunk(embed), Shelf()) == [Answer(None, ()), Answer(None, ())]


def test_a_probe_among_images_takes_no_row():
    probe = Job(pixels=b"", shape=(0,), heads=(), embeddings=False, queued_at=0.0, deadline=1e12)
    first, second = run_batch([probe, job((7, 8, 9), embeddings=True)], trunk(mean_colour), Shelf())
    assert first == Answer(None, ())
    assert isinstance(second, Answer)
    assert second.embeddings.tolist() == [[7.0, 8.0, 9.0]]


@pytest.mark.parametrize(("images", "sizes"), [(1, [1]), (8, [8]), (20, [8, 8, 4])])
def test_a_request_is_cut_into_jobs_of_a_batch_at_most_and_comes_back_in_order(images, sizes):
    pixels = np.arange(images, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(3, axis=3)
    jobs = split(pixels, (RED, GREEN), embeddings=True, size=8, queued_at=0.0, deadline=1.0)
    answer = joined([answer for each in jobs for answer in run_batch([each], trunk(mean_colour), Shelf())])
    assert [each.images for each in jobs] == sizes
    assert answer.embeddings[:, 0].tolist() == list(range(images))
    assert [output[:, 0].tolist() for output in answer.outputs] == [list(range(images))] * 2


def test_a_head_that_failed_for_some_rows_has_failed():
    good, bad = np.ones((1, 2), np.float32), InvalidHead("damaged")
    answer = joined([Answer(None, (good, good)), Answer(None, (bad, good))])
    assert answer.outputs[0] is bad
    assert answer.outputs[1].shape == (2, 2)


def test_a_job_that_failed_as_a_whole_fails_the_request():
    with pytest.raises(WorkerFailed):
        joined([Answer(None, ()), WorkerFailed()])


def test_the_outputs_that_a_batch_needs_come_from_one_pass():
    """A tail takes its stage; the embedding is computed only where somebody wants it."""
    asked: list[tuple[str, ...]] = []
    known = trunk(mean_colour)

    def run(pixels: UInt8Array, outputs: tuple[str, ...]) -> Features:
        asked.append(outputs)
        return known.run(pixels, outputs)

    tail, lost = HeadRef("tail", "tail", "stage"), HeadRef("lost", "lost", "no such stage")
    shelf = Shelf()
    shelf.held |= {tail: Channel(0), lost: Channel(0)}
    watched = Trunk(run, known.outputs)
    mixed = [job((1, 2, 3), heads=(RED, tail)), job((4, 5, 6), heads=(tail, lost))]
    first, second = run_batch(mixed, watched, shelf)
    run_batch([job((1, 2, 3), heads=(tail,))], watched, shelf)
    run_batch([job((1, 2, 3), heads=(tail,), embeddings=True)], watched, shelf)
    assert asked == [("embedding", "stage"), ("stage",), ("embedding", "stage")]
    assert isinstance(first, Answer)
    assert isinstance(second, Answer)
    assert [output.tolist() for output in first.outputs] == [[[1.0]], [[2.0]]]
    assert second.outputs[0].tolist() == [[8.0]]
    assert isinstance(second.outputs[1], InvalidHead)
