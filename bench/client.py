"""The load generator: raw HTTP/1.1 on uvloop in a process of its own; one order, one answer.

Each connection sends its next request when the last one is answered and, where a rate is asked for, not
before that request's turn. A request is written as it will be on
the wire before the clock starts, and of the answer only its status is read, and its end found.
A request so costs the client about 0.2 ms of CPU, most of it the kernel's.
"""

import asyncio
import base64
import json
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httptools
import uvloop

from bench.photos import OpenPhotos, Photos
from bench.processes import answer, orders

BOUNDARY = "photo-7d1f0c"
DEADLINE_S = 120.0  # of an order, beyond its own seconds


class ServerSaidNo(Exception):
    """A connection was closed before its answer was whole."""


@dataclass(slots=True)
class Order:
    """What to send: photos first, first + 1 … to `paths` in turn, while there are any and time is left.

    With fewer `distinct` photos than requests, they are sent again and again.
    """

    photos: OpenPhotos
    media_type: str
    first: int
    count: int
    seconds: float  # no request starts later
    shape: str  # multipart | raw | base64
    paths: list[str]
    fields: list[tuple[str, str]]  # of a form, beside the photo
    keep: bool  # the answers' bodies
    rate: float | None = None  # requests a second; None: as fast as the answers come
    distinct: int | None = None  # photos; None: `count`
    sent: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)  # of the same requests
    bodies: dict[int, str] = field(default_factory=dict)
    started: float = 0.0
    ended: float = 0.0

    def take(self) -> tuple[int, bytes] | None:
        if self.sent == self.count or time.perf_counter() - self.started > self.seconds:
            return None
        index = self.sent
        self.sent += 1
        return index, self.request(index)

    def wait_s(self, index: int) -> float:
        """Until the turn of a request."""
        turn = 0.0 if self.rate is None else index / self.rate
        return self.started + turn - time.perf_counter()

    def request(self, index: int) -> bytes:
        body, content_type = self.body(self.photos[self.first + index % (self.distinct or self.count)])
        head = (
            f"POST {self.paths[index % len(self.paths)]} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def body(self, photo: bytes) -> tuple[bytes, str]:
        """The body of one request, and its type."""
        if self.shape == "raw":
            return photo, self.media_type
        if self.shape == "base64":
            return b'{"input": "' + base64.b64encode(photo) + b'"}', "application/json"
        parts = [
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in self.fields
        ]
        parts.append(
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="photo"\r\n'
            f"Content-Type: {self.media_type}\r\n\r\n"
        )
        form = f"multipart/form-data; boundary={BOUNDARY}"
        return "".join(parts).encode() + photo + f"\r\n--{BOUNDARY}--\r\n".encode(), form


class Connection(asyncio.Protocol):
    """One client. httptools calls its methods for what it finds in an answer."""

    def __init__(self, order: Order, over: "asyncio.Future[None]") -> None:
        self._order = order
        self._over = over
        self._parser = httptools.HttpResponseParser(self)
        self._body = bytearray()
        self._index = 0
        self._sent_at = 0.0
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._over.done():
            self._over.set_exception(ServerSaidNo(str(exc or "the server closed a connection")))

    def on_body(self, body: bytes) -> None:
        if self._order.keep:
            self._body += body

    def on_message_complete(self) -> None:
        order = self._order
        order.ended = time.perf_counter()
        order.latencies_ms.append((order.ended - self._sent_at) * 1000)
        order.statuses.append(self._parser.get_status_code())
        if order.keep:
            order.bodies[self._index] = self._body.decode()
            self._body.clear()
        self._next()

    def _next(self) -> None:
        request = self._order.take()
        if request is None:
            self._over.set_result(None)
            self._transport.close()
            return
        self._index, data = request
        wait_s = self._order.wait_s(self._index)
        if wait_s > 0:
            asyncio.get_running_loop().call_later(wait_s, self._send, data)
        else:
            self._send(data)

    def _send(self, data: bytes) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(data)


async def drive(order: Order, port: int, connections: int) -> None:
    """Send it all, and wait for every answer."""
    loop = asyncio.get_running_loop()
    ends = [loop.create_future() for _ in range(connections)]
    order.started = time.perf_counter()
    async with asyncio.timeout(order.seconds + DEADLINE_S):
        for over in ends:
            await loop.create_connection(partial(Connection, order, over), "127.0.0.1", port)
        await asyncio.gather(*ends)


def main() -> None:
    for said in orders():
        port, connections = said.pop("port"), said.pop("connections")
        said["photos"] = Photos(Path(said["photos"]), 0, said["media_type"]).open()
        order = Order(**said)
        before = time.process_time()
        uvloop.run(drive(order, port, connections))
        answer(
            seconds=order.ended - order.started,
            latencies_ms=order.latencies_ms,
            statuses=order.statuses,
            bodies=[json.loads(order.bodies[index]) for index in sorted(order.bodies)],
            cpu_s=time.process_time() - before,
        )


if __name__ == "__main__":
    main()
