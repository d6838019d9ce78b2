"""Whole messages between an API process and the worker, on pairs of sockets.

The kernel holds what is on its way, so that there is no process in between, no lock that a killed process
could keep, and no message that it could take along half.
"""

import errno
import os
import select
import socket
from collections import deque
from collections.abc import Sequence

from service.inference.shelf import anonymous_file

MOST_BYTES = 2**16  # of a message; a larger one goes as a file that lies in memory
BUFFER_BYTES = 2**18  # as much as Linux gives unprivileged
# Also of files on their way: as many as a process may have open.
FULL = (errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS)


def channel() -> tuple[socket.socket, socket.socket]:
    """Its two ends, for `Sender` and `receive`; forked and spawned children can have them."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for end in ends:
        end.setblocking(False)  # in the kernel: whoever gets it has it so
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    return ends


class Sender:
    """Sends in order and never waits: what the other end has no room for yet is kept here.

    There is no bound here, because there is one on the jobs that a process may have in work.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._unsent: deque[tuple[bytes, list[int]]] = deque()  # messages, and the files that go with them

    def send(self, message: bytes) -> bool:
        """Returns: whether all has gone; else `flush` is to be called again.

        Raises: OSError: there is no other end any more, or no file for a large message.
        """
        self._unsent.append((message, []) if len(message) <= MOST_BYTES else (b"-", [_written(message)]))
        return self.flush()

    def flush(self) -> bool:
        while self._unsent:
            message, files = self._unsent[0]
            try:
                if files:
                    socket.send_fds(self._end, [message], files)
                else:
                    self._end.send(message)
            except OSError as error:
                if error.errno in FULL:
                    return False
                raise
            self._unsent.popleft()
            for file in files:
                os.close(file)
        return True


def _written(message: bytes) -> int:
    file = anonymous_file("polyhead-message")
    with os.fdopen(file, "wb", closefd=False) as writer:
        writer.write(message)
    return file


def receive(end: socket.socket) -> bytes | None:
    """The next message; None: there is none yet.

    Raises: OSError: the file of a large message can't be read.
    """
    try:
        message, files, _, _ = socket.recv_fds(end, MOST_BYTES, 1)
    except BlockingIOError:
        return None
    if not files:
        return message
    with os.fdopen(files[0], "rb") as reader:
        reader.seek(0)
        return reader.read()


class Exchange:
    """The worker's side: jobs from all API processes in turn, and the answers back to each."""

    def __init__(self, ends: list[socket.socket], urgent: Sequence[socket.socket] = ()) -> None:
        """Args: ends: one for each API process, in their order; urgent: so too, for what goes ahead."""
        self._ends = ends
        self._urgent = list(urgent)
        self._senders = [Sender(end) for end in ends]
        self._full = set[int]()  # whose answers wait for room
        self._next = 0  # who is looked at first

    def __reduce__(self) -> tuple[type["Exchange"], tuple[list[socket.socket], list[socket.socket]]]:
        return Exchange, (self._ends, self._urgent)  # what is spawned begins with nothing unsent

    def get(self, wait_s: float) -> tuple[int, bytes] | None:
        """A message, and whose it is; None: none came, or there is room again for answers."""
        self._flush()
        found = self._look()
        if found is None and wait_s > 0:
            full = [self._ends[index] for index in self._full]
            select.select([*self._urgent, *self._ends], full, [], wait_s)
            found = self._look()
        return found

    def send(self, message: bytes, index: int) -> None:
        """To an API process; one that doesn't read holds up nobody."""
        if not self._senders[index].send(message):
            self._full.add(index)

    def close(self) -> None:
        for end in (*self._ends, *self._urgent):
            end.close()

    def _look(self) -> tuple[int, bytes] | None:
        for index, end in enumerate(self._urgent):
            message = receive(end)
            if message is not None:
                return index, message
        for offset in range(len(self._ends)):
            index = (self._next + offset) % len(self._ends)
            message = receive(self._ends[index])
            if message is not None:
                self._next = index + 1
                return index, message
        return None

    def _flush(self) -> None:
        self._full = {index for index in self._full if not self._senders[index].flush()}
