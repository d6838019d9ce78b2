"""The pool that decodes: one by one, and only so many at a time."""

import asyncio
import threading
from io import BytesIO

import pytest
from PIL import Image

from models.errors import InvalidImage
from models.identity import Preprocessing
from service.errors import Overloaded
from service.web.decoding import Decoder

PREPROCESSING = Preprocessing(
    input_size=8, channels=3, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear", crop_pct=1.0
)


@pytest.fixture
def decoder():
    decoder = Decoder(PREPROCESSING, threads=2, max_pixels=100, max_pending=4)
    yield decoder
    decoder.close()


def test_an_item_that_fails_is_its_error_alone(decoder):
    def work(item):
        if item == 1:
            raise InvalidImage("broken")
        return item * 10

    first, second, third = asyncio.run(decoder.map(work, [0, 1, 2]))
    assert (first, third) == (0, 20)
    assert isinstance(second, InvalidImage)


def test_an_image_is_decoded_at_the_backbones_size_or_another(decoder):
    data = BytesIO()
    Image.new("RGB", (9, 9), "red").save(data, "PNG")
    assert decoder.decode(data.getvalue()).pixels.shape == (8, 8, 3)
    assert decoder.decode(data.getvalue(), 5).pixels.shape == (5, 5, 3)


def test_what_nobody_foresaw_is_not_hidden(decoder):
    with pytest.raises(ZeroDivisionError):
        asyncio.run(decoder.map(lambda item: 1 / item, [1, 0]))


def test_more_than_it_may_hold_is_refused_only_while_others_wait(decoder):
    free = threading.Event()

    async def crowd():
        large = asyncio.create_task(decoder.map(lambda _: free.wait(5), range(6)))
        await asyncio.sleep(0.05)
        with pytest.raises(Overloaded):
            await decoder.map(lambda item: item, [1])
        free.set()
        await large
        return await decoder.map(lambda item: item, [1])

    assert asyncio.run(crowd()) == [1]
