"""Requests that come at one moment begin a few at a time, and a probe doesn't wait for them."""

import asyncio

import pytest

from service.web.turns import AT_ONCE, TurnsMiddleware


class Begun:
    """An app that notes who begins, and in which turn of the loop."""

    def __init__(self) -> None:
        self.turns: list[list[str]] = [[]]

    async def __call__(self, scope, receive, send):
        self.turns[-1].append(scope["path"])

    async def count(self, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
            self.turns.append([])


def come(app: TurnsMiddleware, path: str, kind: str = "http") -> "asyncio.Task[None]":
    return asyncio.get_running_loop().create_task(app({"type": kind, "path": path}, None, None))


def run(scene) -> list[list[str]]:
    begun = Begun()

    async def all_of_it():
        await scene(TurnsMiddleware(begun), begun)

    asyncio.run(all_of_it())
    return begun.turns


def test_a_crowd_begins_in_its_order_and_a_few_in_a_turn():
    names = [str(number) for number in range(3 * AT_ONCE + 1)]

    async def scene(app, begun):
        crowd = [come(app, name) for name in names]
        await begun.count(20)
        await asyncio.gather(*crowd)

    turns = run(scene)
    assert [name for turn in turns for name in turn] == names
    assert max(map(len, turns)) == AT_ONCE


@pytest.mark.parametrize(("path", "kind"), [("/livez", "http"), ("/readyz", "http"), ("", "lifespan")])
def test_a_probe_goes_ahead_of_a_crowd(path, kind):
    async def scene(app, begun):
        crowd = [come(app, "crowd") for _ in range(20 * AT_ONCE)]
        await begun.count(2)
        probe = come(app, path, kind)
        await begun.count(2)
        assert probe.done()
        await begun.count(100)
        await asyncio.gather(*crowd)

    turns = run(scene)
    assert path in turns[2]
    assert sum(turn.count("crowd") for turn in turns) == 20 * AT_ONCE


def test_who_comes_alone_waits_for_no_turn():
    async def scene(app, begun):
        for _ in range(3 * AT_ONCE):
            lone = come(app, "lone")
            await begun.count(1)
            assert lone.done()

    assert sum(map(len, run(scene))) == 3 * AT_ONCE


def test_who_is_cancelled_while_it_waits_takes_nobodys_turn():
    async def scene(app, begun):
        crowd = [come(app, str(number)) for number in range(3 * AT_ONCE)]
        await asyncio.sleep(0)
        for task in crowd[AT_ONCE : 2 * AT_ONCE]:
            task.cancel()
        await begun.count(4)
        assert all(task.done() for task in crowd)

    turns = run(scene)
    assert [name for turn in turns for name in turn] == [
        str(number) for number in range(3 * AT_ONCE) if number // AT_ONCE != 1
    ]
