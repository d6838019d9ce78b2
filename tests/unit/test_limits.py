"""The size of bodies, one by one and together."""

import asyncio

import pytest

from service.settings import Settings
from service.web.limits import HELD_BODIES, BodyLimitMiddleware

SETTINGS = Settings(max_request_bytes=100, max_archive_bytes=1000)


def scope(path="/v1/embeddings", **headers):
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": "POST", "path": path, "headers": raw}


async def ask(app, sizes, asked):
    """Send a body in chunks; returns the status."""
    chunks = [{"type": "http.request", "body": b"x" * size, "more_body": True} for size in sizes]
    chunks.append({"type": "http.request", "body": b"", "more_body": False})
    statuses = []

    async def receive():
        return chunks.pop(0)

    async def send(message):
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(asked, receive, send)
    return statuses[0]


def app_that(between=None):
    """Reads a whole body, waits for `between`, and says 200."""

    async def inner(_scope, receive, send):
        while (await receive())["more_body"]:
            pass
        if between is not None:
            await between.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return BodyLimitMiddleware(inner, settings=SETTINGS)


@pytest.mark.parametrize(
    ("sizes", "status"), [([100], 200), ([60, 40], 200), ([101], 413), ([60, 41], 413), ([], 200)]
)
def test_a_body_is_counted_as_it_comes(sizes, status):
    assert asyncio.run(ask(app_that(), sizes, scope())) == status


def test_a_body_that_is_said_to_be_too_large_is_not_read():
    assert asyncio.run(ask(app_that(), [], scope(content_length="101"))) == 413


@pytest.mark.parametrize(
    ("path", "content_type", "status"),
    [
        ("/v1/tasks/x/examples", "multipart/form-data; boundary=b", 200),
        ("/v1/tasks/x/examples", "application/json", 413),
        ("/v1/tasks/x/predict", "multipart/form-data; boundary=b", 413),
    ],
)
def test_only_a_form_of_examples_may_hold_an_archive(path, content_type, status):
    asked = scope(path, content_type=content_type)
    assert asyncio.run(ask(app_that(), [100] * 10, asked)) == status


def test_all_bodies_together_are_bounded_and_a_lone_one_is_not():
    async def crowd():
        go_on = asyncio.Event()
        app = app_that(go_on)
        first = [asyncio.create_task(ask(app, [100], scope())) for _ in range(HELD_BODIES)]
        await asyncio.sleep(0)
        refused = [await ask(app, [1], scope()), await ask(app, [], scope(content_length="1"))]
        go_on.set()
        return [await each for each in first], refused, await ask(app, [100], scope())

    assert asyncio.run(crowd()) == ([200] * HELD_BODIES, [429, 429], 200)
