"""Jobs of many requests become one batch: each gets its own rows back, and its own failures."""

import numpy as np
import pytest

from models.arrays import FloatArray, UInt8Array
from models.errors import BackboneError, InvalidHead
from service.errors import UnknownBlob
from service.inference.batching import Answer, HeadRef, Job, split
from service.inference.running import run_batch
from tests.unit.batches import (
    BROKEN,
    GONE,
    GREEN,
    RED,
    Channel,
    Shelf,
    corner,
    job,
    job_of,
    mean_colour,
    photos,
    trunk,
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
    assert set(seen) == {RED, GREEN}


def test_a_head_that_fails_is_an_error_in_the_answers_that_asked_for_it_alone():
    jobs = [job((1, 2, 3), heads=(GONE, RED)), job((4, 5, 6), heads=(GREEN, BROKEN))]
    first, second = run_batch(jobs, trunk(mean_colour), Shelf())
    assert isinstance(first, Answer)
    assert isinstance(second, Answer)
    assert isinstance(first.outputs[0], UnknownBlob)
    assert first.outputs[1].tolist() == [[1.0]]
    assert second.outputs[0].tolist() == [[5.0]]
    assert isinstance(second.outputs[1], InvalidHead)


def test_a_job_whose_head_is_late_comes_back_without_pixels_and_nobody_waits_for_it():
    """Asked again when the head is here, it needs no second pass, and answers as if it had not been late."""
    passes: list[int] = []

    def embed(pixels: UInt8Array) -> FloatArray:
        passes.append(len(pixels))
        return mean_colour(pixels)

    shelf = Shelf()
    shelf.late = {GREEN}
    jobs = [job((1, 2, 3), heads=(RED, GREEN), embeddings=True), job((4, 5, 6), heads=(RED,))]
    left, answered = run_batch(jobs, trunk(embed), shelf)
    assert isinstance(answered, Answer)
    assert answered.outputs[0].tolist() == [[4.0]]
    assert isinstance(left, Job)
    assert left.pixels == b""
    (still,) = run_batch([left], trunk(embed), shelf)
    assert still == left

    shelf.late = set()
    (answer,) = run_batch([left], trunk(embed), shelf)
    assert isinstance(answer, Answer)
    assert answer.embeddings.tolist() == [[1.0, 2.0, 3.0]]
    assert [output.tolist() for output in answer.outputs] == [[[1.0]], [[2.0]]]
    assert passes == [2]


@pytest.mark.parametrize(
    "late",
    [
        HeadRef("tail", "tail", output="stage"),
        HeadRef("own", "own", output="pixels", input_size=4),
        HeadRef("flips", "flips", views=("as it is", "left-right")),
    ],
    ids=["tail", "network", "flips"],
)
def test_a_job_whose_tail_or_network_is_late_comes_back_as_it_was_before_any_pass(late):
    """A feature map or flips would be much to keep; others have their answers meanwhile."""
    passes: list[int] = []

    def embed(pixels: UInt8Array) -> FloatArray:
        passes.append(len(pixels))
        return mean_colour(pixels)

    shelf = Shelf()
    shelf.late = {late}
    jobs = [job((1, 2, 3), heads=(RED, late)), job((4, 5, 6), heads=(RED,))]
    left, answered = run_batch(jobs, trunk(embed), shelf)
    assert left == jobs[0]
    assert isinstance(answered, Answer)
    assert passes == [1]
    assert run_batch([left], trunk(embed), shelf) == [left]
    assert passes == [1]

    shelf.late = set()
    shelf.held[late] = Channel(0)
    (answer,) = run_batch([left], trunk(embed), shelf)
    assert isinstance(answer, Answer)
    assert not any(isinstance(output, Exception) for output in answer.outputs)


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


def test_a_known_embedding_passes_the_backbone_by_and_meets_the_head_of_its_batch():
    passes: list[int] = []

    def embed(pixels: UInt8Array) -> FloatArray:
        passes.append(len(pixels))
        return mean_colour(pixels)

    known = np.array([[7, 8, 9], [10, 11, 12]], np.float32)
    jobs = [
        *split(known[:0], (RED,), embeddings=False, size=8, queued_at=0.0, deadline=1e12, known=known),
        job((1, 2, 3), heads=(RED, GREEN)),
    ]
    first, second = run_batch(jobs, trunk(embed), Shelf())
    assert passes == [1]
    assert isinstance(first, Answer)
    assert isinstance(second, Answer)
    assert first.embeddings is None
    assert [output.tolist() for output in first.outputs] == [[[7.0], [10.0]]]
    assert [output.tolist() for output in second.outputs] == [[[1.0]], [[2.0]]]


def test_a_head_that_fails_on_a_known_embedding_is_an_error_in_its_answer_alone():
    known = np.array([[7, 8, 9]], np.float32)
    heads = (GONE, BROKEN, RED)
    jobs = split(known[:0], heads, embeddings=False, size=8, queued_at=0.0, deadline=1e12, known=known)
    (answer,) = run_batch(jobs, trunk(mean_colour), Shelf())
    assert isinstance(answer, Answer)
    assert [type(output) for output in answer.outputs[:2]] == [UnknownBlob, InvalidHead]
    assert answer.outputs[2].tolist() == [[7.0]]


def test_every_alias_that_a_head_was_found_by_is_told_and_the_head_begun():
    """Two aliases of one version are two pins, and still one run."""
    shelf = Shelf()
    kept = HeadRef("red", "red", alias="task_1@production", pinned=True)
    other = HeadRef("red", "red", alias="task_1@candidate")
    run_batch([job_of(photos(1), (kept,)), job_of(photos(2), (other,))], trunk(corner), shelf)
    assert [(ref.alias, ref.pinned) for ref in shelf.begun] == [
        ("task_1@production", True),
        ("task_1@candidate", False),
    ]
    assert shelf.held[RED].runs == [3]
