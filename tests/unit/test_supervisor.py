"""A kept process comes back when it dies, later each time it fails at once, and can be ended."""

import signal
import time
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.process import BaseProcess

import pytest

from service.processes.supervisor import LONGEST_PAUSE_S, SETTLED_S, Keeper


def fail() -> None:
    raise SystemExit(3)


def wait() -> None:
    time.sleep(60)


def refuse_to_end() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)


def keeper(target) -> Keeper:
    def start() -> BaseProcess:
        process = get_context("fork").Process(target=target)
        process.start()
        return process

    return Keeper("kept-0", start, pause_s=1.0)


@pytest.fixture(autouse=True)
def default_sigterm() -> Iterator[None]:
    """Commands run in this process leave a handler that raises; a fork inherits it, and may swallow that."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def kept() -> Iterator[list[Keeper]]:
    """Keepers whose processes end with the test."""
    keepers: list[Keeper] = []
    yield keepers
    for each in keepers:
        each.signal(signal.SIGKILL)
        each.end(time.monotonic() + 5)


def ended(each: Keeper) -> None:
    assert each.process is not None
    each.process.join(5)


def test_a_process_that_died_is_started_again_after_a_pause(kept):
    each = keeper(fail)
    kept.append(each)
    each.tick(100.0)
    ended(each)
    each.tick(100.5)
    assert each.process is None
    each.tick(101.4)
    assert each.process is None
    each.tick(101.6)
    assert each.process is not None


def test_pauses_double_up_to_a_bound_and_start_over_once_a_process_has_settled(kept):
    each = keeper(fail)
    kept.append(each)
    now, pauses = 0.0, []
    for _ in range(7):
        each.tick(now)
        ended(each)
        each.tick(now)
        pauses.append(each.due_at - now)
        now = each.due_at
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, LONGEST_PAUSE_S, LONGEST_PAUSE_S]

    steady = keeper(wait)
    kept.append(steady)
    steady.deaths = 5
    steady.tick(0.0)
    steady.tick(SETTLED_S + 1)
    assert steady.deaths == 0


def test_a_process_that_ignores_sigterm_is_killed_at_the_deadline(kept):
    each = keeper(refuse_to_end)
    kept.append(each)
    each.tick(0.0)
    time.sleep(0.3)
    process = each.process
    each.signal(signal.SIGTERM)
    assert each.end(time.monotonic() + 0.2) is False
    assert process is not None
    assert not process.is_alive()


def test_a_process_that_obeys_ends_by_itself(kept):
    each = keeper(wait)
    kept.append(each)
    each.tick(0.0)
    each.signal(signal.SIGTERM)
    assert each.end(time.monotonic() + 20) is True
