"""A request is cut into jobs, and their answers become the request's again."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from models.errors import InvalidHead
from service.errors import WorkerFailed
from service.inference.batching import Answer, joined, split
from service.inference.running import run_batch
from tests.unit.batches import GREEN, RED, Shelf, job, mean_colour, trunk


def test_pixels_come_before_what_is_known_and_neither_job_is_larger_than_a_batch():
    pixels = np.arange(5, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(3, axis=3)
    known = np.arange(10, 20, dtype=np.float32).reshape(-1, 1).repeat(3, axis=1)
    jobs = split(pixels, (RED,), embeddings=True, size=4, queued_at=0.0, deadline=1.0, known=known)
    answer = joined(run_batch(jobs, trunk(mean_colour), Shelf()))
    assert [each.images for each in jobs] == [4, 1, 4, 4, 2]
    assert answer.outputs[0][:, 0].tolist() == [*range(5), *range(10, 20)]
    assert answer.embeddings[:, 0].tolist() == list(range(5))


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


@pytest.mark.parametrize("rows", [1, 3])
def test_an_answer_crosses_the_channel_as_it_is(rows):
    rng = np.random.default_rng(rows)
    arrays = [rng.random((rows, width), dtype=np.float32) for width in (10, 1, 3)]
    for outputs in ((), arrays[:1], arrays, (arrays[0], WorkerFailed(), arrays[2], WorkerFailed())):
        sent = Answer(arrays[0], tuple(outputs))
        came = pickle.loads(pickle.dumps(sent))
        np.testing.assert_array_equal(came.embeddings, arrays[0])
        assert len(came.outputs) == len(outputs)
        for one, other in zip(outputs, came.outputs, strict=True):
            assert type(one) is type(other)
            if isinstance(one, np.ndarray):
                np.testing.assert_array_equal(one, other)


def test_the_heads_of_a_job_that_come_again_are_those_that_came_before():
    heads = (RED, replace(GREEN, alias="task@production", pinned=True))
    first, again = (pickle.loads(pickle.dumps(job((1, 2, 3), heads=heads))) for _ in range(2))
    assert first == job((1, 2, 3), heads=heads)
    assert first.heads is again.heads
    assert (first.heads[1].alias, first.heads[1].pinned) == ("task@production", True)
    assert pickle.loads(pickle.dumps(job((1, 2, 3)))).heads == ()
