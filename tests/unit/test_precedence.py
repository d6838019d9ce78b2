"""Uploads do their work between predictions, one image at a time, and at full size where nobody predicts."""

import asyncio
import time

import pytest

from service.web.precedence import PATIENCE_S, RECENT_S, Precedence

ITEMS = list(range(10))


async def sizes(precedence: Precedence) -> list[int]:
    seen, parts = [], []
    async for some in precedence.turns(ITEMS, 4):
        seen += some
        parts.append(len(some))
    assert seen == ITEMS
    return parts


def test_where_nobody_predicts_an_upload_takes_as_much_as_it_may():
    assert asyncio.run(sizes(Precedence())) == [4, 4, 2]


def test_for_a_second_after_a_prediction_it_goes_image_by_image():
    now = 0.0
    precedence = Precedence(clock=lambda: now)
    with precedence.predicting():
        pass

    assert asyncio.run(sizes(precedence)) == [1] * 10
    now = RECENT_S
    assert asyncio.run(sizes(precedence)) == [4, 4, 2]


def test_an_image_waits_until_no_prediction_is_in_work():
    async def run() -> list[str]:
        precedence, said = Precedence(), list[str]()

        async def upload() -> None:
            async for _ in precedence.turns(["image"], 4):
                said.append("upload")

        with precedence.predicting():
            with precedence.predicting():
                task = asyncio.create_task(upload())
                await asyncio.sleep(0)
            await asyncio.sleep(0)  # the other one still is
            said.append("predicted")
        await task
        return said

    assert asyncio.run(run()) == ["predicted", "upload"]


def test_an_upload_ends_beside_predictions_without_a_gap():
    async def run() -> float:
        precedence = Precedence()
        with precedence.predicting():
            began = time.monotonic()
            assert await sizes(precedence) == [1] * 10
            return time.monotonic() - began

    assert asyncio.run(run()) >= 10 * PATIENCE_S


def test_a_prediction_that_fails_is_over_too():
    async def run() -> list[int]:
        precedence = Precedence(clock=lambda: 0.0)
        with pytest.raises(ZeroDivisionError), precedence.predicting():
            1 / 0  # noqa: B018
        return await asyncio.wait_for(sizes(precedence), 10 * PATIENCE_S)

    assert asyncio.run(run()) == [1] * 10
