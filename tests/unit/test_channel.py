"""Messages between two processes: whole, in order, and none lost with a killed one."""

import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.inference.channel import MOST_BYTES, Exchange, Sender, channel, receive

SIZES = [0, 1, MOST_BYTES - 1, MOST_BYTES, MOST_BYTES + 1, 5_000_000]


Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def open_channel() -> Iterator[Callable[[], Ends]]:
    with ExitStack() as stack:

        def open_channel() -> Ends:
            mine, its = channel()
            return stack.enter_context(mine), stack.enter_context(its)

        yield open_channel


def echo(exchange: Exchange, messages: int) -> None:
    for _ in range(messages):
        while (found := exchange.get(60)) is None:
            pass
        index, message = found
        exchange.send(message, index)
    while exchange._full:
        exchange.get(1)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_answers_messages_of_any_size_to_whom_they_are_from(method, open_channel):
    mine, its = zip(*(open_channel() for _ in range(2)), strict=True)
    child = multiprocessing.get_context(method).Process(
        target=echo, args=(Exchange(list(its)), 2 * len(SIZES))
    )
    child.start()
    for size in SIZES:
        for index, end in enumerate(mine):
            message = bytes([index]) * size
            assert Sender(end).send(message)
            assert waited_for(end) == message
    child.join(60)
    assert child.exitcode == 0


def waited_for(end: socket.socket, within_s: float = 60) -> bytes:
    until = time.monotonic() + within_s
    while (message := receive(end)) is None:
        assert time.monotonic() < until
        time.sleep(0.001)
    return message


@settings(deadline=None)
@given(st.lists(st.one_of(st.integers(0, 3000), st.sampled_from(SIZES[:-1])), max_size=300))
def test_what_there_is_no_room_for_waits_and_comes_in_order(sizes):
    mine, its = channel()
    with mine, its:
        sender = Sender(mine)
        all_gone = [sender.send(bytes([number % 256]) * size) for number, size in enumerate(sizes)]
        arrived = list[bytes]()
        while len(arrived) < len(sizes):
            message = receive(its)
            if message is None:
                assert not all_gone[-1]
                sender.flush()
                continue
            arrived.append(message)
        assert [len(each) for each in arrived] == sizes
        assert all(set(each) <= {number % 256} for number, each in enumerate(arrived))
        assert sender.flush()
        assert receive(its) is None


def test_an_api_process_that_does_not_read_holds_up_none_but_itself(open_channel):
    (deaf, first), (mine, second) = open_channel(), open_channel()
    exchange = Exchange([first, second])
    for _ in range(2000):
        exchange.send(bytes(1000), 0)
    exchange.send(b"heard", 1)
    assert waited_for(mine) == b"heard"
    for _ in range(2000):  # it reads again
        exchange.get(0)
        assert waited_for(deaf) == bytes(1000)


def test_a_full_channel_is_waited_for_without_polling(open_channel):
    _, its = open_channel()
    exchange = Exchange([its])
    while not exchange._full:
        exchange.send(bytes(1000), 0)
    cpu = time.thread_time()
    assert exchange.get(0.2) is None
    assert time.thread_time() - cpu < 0.1


def test_api_processes_take_turns(open_channel):
    ends = [open_channel() for _ in range(3)]
    exchange = Exchange([its for _, its in ends])
    for index, (mine, _) in enumerate(ends):
        for _ in range(3 - index):
            Sender(mine).send(b"")
    taken = [found[0] for found in iter(lambda: exchange.get(0), None)]
    assert taken == [0, 1, 2, 0, 1, 0]


def test_what_is_urgent_goes_ahead(open_channel):
    (mine, its), (urgent, its_urgent) = open_channel(), open_channel()
    exchange = Exchange([its], urgent=[its_urgent])
    for end, message in ((mine, b"first"), (mine, b"second"), (urgent, b"urgent")):
        Sender(end).send(message)
    assert [exchange.get(0) for _ in range(4)] == [(0, b"urgent"), (0, b"first"), (0, b"second"), None]


def test_what_is_urgent_ends_a_wait(open_channel):
    (_, its), (urgent, its_urgent) = open_channel(), open_channel()
    later = threading.Timer(0.1, urgent.send, [b"urgent"])
    later.start()
    assert Exchange([its], urgent=[its_urgent]).get(30) == (0, b"urgent")
    later.join()


def take_for_ever(exchange: Exchange) -> None:
    while True:
        exchange.get(60)


def test_a_killed_worker_takes_no_message_along_that_it_had_not_got(open_channel):
    mine, its = open_channel()
    child = multiprocessing.get_context("fork").Process(target=take_for_ever, args=(Exchange([its]),))
    child.start()
    Sender(mine).send(b"first")
    while lies_there(its):
        time.sleep(0.001)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join(60)
    Sender(mine).send(b"second")
    assert Exchange([its]).get(10) == (0, b"second")


def lies_there(end: socket.socket) -> bool:
    try:
        return bool(end.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return False


def test_a_sender_without_another_end_says_so(open_channel):
    mine, its = open_channel()
    its.close()
    with pytest.raises(ConnectionRefusedError):
        Sender(mine).send(b"")


def test_no_file_is_left_open_by_large_messages(open_channel):
    mine, its = open_channel()
    before = set(Path("/proc/self/fd").iterdir())
    for _ in range(20):
        Sender(mine).send(bytes(MOST_BYTES + 1))
        receive(its)
    assert set(Path("/proc/self/fd").iterdir()) == before
