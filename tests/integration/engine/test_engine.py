"""The API process's side alone: no worker answers unless a test does."""

import asyncio
import contextlib
import pickle
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from models.errors import PolyheadError
from service.engine import Inference, LitEngine
from service.errors import DeadlineExceeded, Overloaded, WorkerFailed
from service.inference.batching import Answer, HeadRef, Job
from service.inference.board import Board
from service.metrics import RESUBMITTED_JOBS
from service.settings import Settings

PIXELS = np.zeros((1, 32, 32, 3), np.uint8)


@pytest.fixture
def open_inference(prepared) -> Iterator[Callable[..., Inference]]:
    """An engine's other half, with any settings."""
    with contextlib.ExitStack() as stack:

        def open_inference(**settings: Any) -> Inference:
            made = Inference(Settings(**settings), prepared.identity, prepared.backbone_file, Board(1))
            stack.callback(made.close)
            return made

        yield open_inference


@pytest.fixture
def inference(open_inference) -> Inference:
    return open_inference(request_deadline_s=20)


async def queued(engine: LitEngine) -> str:
    """The uid of the first job that waits."""
    while not engine._waiting:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.01)
    return next(iter(engine._waiting))


def answer(inference: Inference, uid: str) -> None:
    """What a worker does with a job's answer."""
    inference.exchange.send(pickle.dumps([(uid, Answer(None, ()))]), 0)


def sent(inference: Inference) -> list[tuple[str, Job]]:
    """What lies there for the worker to take."""
    return [pickle.loads(said) for _, said in iter(lambda: inference.exchange.get(0), None)]


def lose_worker(inference: Inference) -> None:
    inference.board.worker_came(0)
    inference.board.worker_went(0)


async def outcome(awaitable) -> object:
    try:
        return await awaitable
    except PolyheadError as error:
        return type(error)


def test_a_job_that_a_worker_took_with_it_is_sent_to_the_next_one(inference):
    async def run() -> tuple[object, bool, float]:
        async with inference.engine(0) as engine:
            before = RESUBMITTED_JOBS._value.get()
            request = asyncio.create_task(outcome(engine.submit(PIXELS)))
            await queued(engine)
            ((uid, _),) = sent(inference)  # that worker is no more
            lose_worker(inference)
            await asyncio.sleep(0.5)
            (again,) = sent(inference)
            answer(inference, again[0])
            return await request, uid == again[0], RESUBMITTED_JOBS._value.get() - before

    assert asyncio.run(run()) == (Answer(None, ()), True, 1)


def test_a_job_that_two_workers_died_of_fails(inference):
    """One silent repetition, because inference is idempotent; more would keep a poisonous job alive."""

    async def run() -> object:
        async with inference.engine(0) as engine:
            request = asyncio.create_task(outcome(engine.submit(PIXELS)))
            await queued(engine)
            for _ in range(2):
                lose_worker(inference)
                await asyncio.sleep(0.5)
            return await request

    assert asyncio.run(run()) == WorkerFailed
    assert len(sent(inference)) == 2


def test_answers_go_on_after_one_that_cannot_be_read(inference):

    async def run() -> object:
        async with inference.engine(0) as engine:
            inference.exchange.send(b"garbage", 0)
            await asyncio.sleep(0.1)
            request = asyncio.create_task(outcome(engine.submit(PIXELS)))
            answer(inference, await queued(engine))
            return await request

    assert asyncio.run(run()) == Answer(None, ())


def test_jobs_that_the_worker_has_no_time_for_all_reach_it_in_order(inference):
    """More than the kernel holds on the way; the loop goes on meanwhile."""

    async def run() -> list[int]:
        async with inference.engine(0) as engine:
            heads = [HeadRef(f"{number:064}", "k" * 200) for number in range(200)]
            requests = [
                asyncio.create_task(outcome(engine.submit(PIXELS[:0], heads, known=known[None])))
                for known in np.arange(300, dtype=np.float32)[:, None]
            ]
            arrived = list[int]()
            while len(arrived) < len(requests):
                await asyncio.sleep(0.01)
                for uid, job in sent(inference):
                    arrived.append(int(np.frombuffer(job.known, np.float32)[0]))
                    answer(inference, uid)
            assert await asyncio.gather(*requests) == [Answer(None, ())] * len(requests)
            return arrived

    assert asyncio.run(run()) == list(range(300))


def test_a_job_that_cannot_be_sent_fails_its_request_at_once(inference):

    async def run() -> tuple[object, object]:
        async with inference.engine(0) as engine:
            unsendable = HeadRef("d" * 64, key=lambda: "no bytes can say this")
            failed = await asyncio.wait_for(outcome(engine.submit(PIXELS, [unsendable])), 5)
            request = asyncio.create_task(outcome(engine.submit(PIXELS)))
            answer(inference, await queued(engine))
            return failed, await request

    assert asyncio.run(run()) == (WorkerFailed, Answer(None, ()))


def test_jobs_of_one_process_after_another_are_not_taken_for_the_same(inference):
    """The worker drops what it has seen; a replaced process begins to count anew."""

    async def run() -> str:
        async with inference.engine(0) as engine:
            request = asyncio.create_task(outcome(engine.submit(PIXELS)))
            uid = await queued(engine)
            answer(inference, uid)
            await request
            return uid

    assert asyncio.run(run()) != asyncio.run(run())


def test_nothing_is_left_of_a_request_whose_deadline_passed(open_inference):
    inference = open_inference(request_deadline_s=0.2)

    async def run() -> tuple[object, int, int]:
        async with inference.engine(0) as engine:
            result = await outcome(engine.submit(np.concatenate([PIXELS] * 20)))
            await asyncio.sleep(0.3)
            return result, len(engine._waiting), sum(engine._share._taken)

    assert asyncio.run(run()) == (DeadlineExceeded, 0, 0)


def test_a_request_that_was_given_up_counts_until_its_job_is_through(inference):
    """Else a client that comes and goes could fill the queue past its bound."""

    async def run() -> tuple[int, int]:
        async with inference.engine(0) as engine:
            request = asyncio.create_task(outcome(engine.submit(PIXELS)))
            uid = await queued(engine)
            request.cancel()
            await asyncio.sleep(0.3)
            before = engine._images
            answer(inference, uid)
            await asyncio.sleep(1)
            return before, engine._images

    assert asyncio.run(run()) == (1, 0)


def test_a_probe_goes_ahead_of_the_queue(inference):

    async def run() -> tuple[int, bool]:
        async with inference.engine(0) as engine:
            requests = [asyncio.create_task(outcome(engine.submit(PIXELS))) for _ in range(100)]
            await queued(engine)
            alive = asyncio.create_task(engine.alive())
            await asyncio.sleep(0.1)
            uid, job = sent(inference)[0]
            answer(inference, uid)
            said = await alive
            for each in requests:
                each.cancel()
            return job.images, said

    assert asyncio.run(run()) == (0, True)


def test_behind_a_long_batch_the_workers_progress_counts_as_life(inference):
    async def run() -> bool:
        async with inference.engine(0) as engine:
            inference.board.note_progress(0)
            return await engine.alive()

    assert asyncio.run(run()) is True


@pytest.mark.parametrize("silent", ["worker", "way back"])
def test_half_a_minute_without_progress_or_answers_is_death(inference, silent):
    async def run() -> bool:
        async with inference.engine(0) as engine:
            if silent == "worker":
                inference.board._progress[0] = time.monotonic() - 31
            else:
                inference.board.note_progress(0)
                engine._unanswered_since = time.monotonic() - 31
            return await engine.alive()

    assert asyncio.run(run()) is False


def test_a_known_embedding_waits_in_the_queue_as_an_image_and_is_refused_as_one(open_inference):
    inference = open_inference(request_deadline_s=0.2, max_queued_images=3)
    known = np.zeros((2, 16), np.float32)

    async def run() -> list[object]:
        async with inference.engine(0) as engine:
            first = asyncio.create_task(outcome(engine.submit(PIXELS, known=known)))
            await queued(engine)
            held = engine._images, engine.full
            refused = await outcome(engine.submit(PIXELS[:0], known=known[:1]))
            return [*held, refused, await first]

    assert asyncio.run(run()) == [3, True, Overloaded, DeadlineExceeded]
