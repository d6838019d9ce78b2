"""The API process's side alone, on a real manager: no worker answers unless a test does."""

import asyncio
import pickle
import time
from collections.abc import Iterator

import numpy as np
import pytest

from models.errors import PolyheadError
from service.engine import Inference, LitEngine
from service.errors import DeadlineExceeded, Overloaded, WorkerFailed
from service.inference.batching import Answer, HeadRef
from service.inference.board import Board
from service.settings import Settings

PIXELS = np.zeros((1, 32, 32, 3), np.uint8)


@pytest.fixture
def inference(prepared) -> Iterator[Inference]:
    settings = Settings(request_deadline_s=20)
    made = Inference(settings, prepared.identity, prepared.backbone_file, Board(1))
    made.start_manager()
    yield made
    made.close()


async def queued(engine: LitEngine) -> str:
    """The uid of the first job that waits."""
    while not engine._waiting:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.01)
    return next(iter(engine._waiting))


def answer(inference: Inference, uid: str) -> None:
    """What a worker does with a job's answer."""
    inference.transport.send(pickle.dumps([(uid, Answer(None, ()))]), consumer_id=0)


async def outcome(awaitable) -> object:
    try:
        return await awaitable
    except PolyheadError as error:
        return type(error)


def test_a_job_that_two_workers_died_of_fails(inference):
    """One silent repetition, because inference is idempotent; more would keep a poisonous job alive."""

    async def run() -> tuple[object, int]:
        async with inference.engine(0) as engine:
            request = asyncio.create_task(outcome(engine.submit(PIXELS)))
            await queued(engine)
            for _ in range(2):
                inference.board.worker_is_ready()
                await asyncio.sleep(0.5)
            return await request, engine._queue.qsize()

    assert asyncio.run(run()) == (WorkerFailed, 2)


def test_answers_go_on_after_one_that_cannot_be_read(inference):

    async def run() -> object:
        async with inference.engine(0) as engine:
            inference.transport.send("garbage", consumer_id=0)
            await asyncio.sleep(0.5)
            request = asyncio.create_task(outcome(engine.submit(PIXELS)))
            answer(inference, await queued(engine))
            return await request

    assert asyncio.run(run()) == Answer(None, ())


def test_without_the_manager_a_request_fails_at_once(inference):
    async def run() -> tuple[object, float]:
        async with inference.engine(0) as engine:
            inference.manager.kill()
            started = time.monotonic()
            return await outcome(engine.submit(PIXELS)), time.monotonic() - started

    failure, seconds = asyncio.run(run())
    assert failure is WorkerFailed
    assert seconds < 5


def test_a_job_that_cannot_be_queued_fails_its_request_at_once(inference):
    """Nobody waits for a job to be in the queue, so whoever put it there has to tell."""

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


def test_nothing_is_left_of_a_request_whose_deadline_passed(prepared):
    settings = Settings(request_deadline_s=0.2)
    inference = Inference(settings, prepared.identity, prepared.backbone_file, Board(1))
    inference.start_manager()

    async def run() -> tuple[object, int, int]:
        async with inference.engine(0) as engine:
            result = await outcome(engine.submit(np.concatenate([PIXELS] * 20)))
            await asyncio.sleep(0.3)
            return result, len(engine._waiting), sum(engine._share._taken)

    try:
        assert asyncio.run(run()) == (DeadlineExceeded, 0, 0)
    finally:
        inference.close()


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


def test_behind_a_long_queue_the_workers_progress_counts_as_life(inference):
    async def run() -> bool:
        async with inference.engine(0) as engine:
            inference.board.note_progress()
            return await engine.alive()

    assert asyncio.run(run()) is True


@pytest.mark.parametrize("silent", ["worker", "way back"])
def test_half_a_minute_without_progress_or_answers_is_death(inference, silent):
    async def run() -> bool:
        async with inference.engine(0) as engine:
            if silent == "worker":
                inference.board._progress.value = time.monotonic() - 31
            else:
                inference.board.note_progress()
                engine._unanswered_since = time.monotonic() - 31
            return await engine.alive()

    assert asyncio.run(run()) is False


def test_a_known_embedding_waits_in_the_queue_as_an_image_and_is_refused_as_one(prepared):
    settings = Settings(request_deadline_s=0.2, max_queued_images=3)
    inference = Inference(settings, prepared.identity, prepared.backbone_file, Board(1))
    inference.start_manager()
    known = np.zeros((2, 16), np.float32)

    async def run() -> list[object]:
        async with inference.engine(0) as engine:
            first = asyncio.create_task(outcome(engine.submit(PIXELS, known=known)))
            await queued(engine)
            held = engine._images
            refused = await outcome(engine.submit(PIXELS[:0], known=known[:1]))
            return [held, refused, await first]

    try:
        assert asyncio.run(run()) == [3, Overloaded, DeadlineExceeded]
    finally:
        inference.close()
