"""A TCP proxy that a test cuts: it refuses, freezes, holds what it is told to look for, or loses an answer.

Frozen, it goes on taking connections and bytes as the kernel of a stopped server does, and says nothing: no
keep-alive of TCP notices.
"""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, Self
from urllib.parse import urlsplit

import sqlalchemy as sa

from tests.engines import free_ports

CHUNK = 65_536  # bytes
WAIT_S = 60.0
LAST_S = 0.5  # in which a server carries out what it was told last


class Proxy:
    """In front of a TCP port, or of a Unix socket by its path; threads of any test may call it."""

    def __init__(self, target: tuple[str, int] | str) -> None:
        self._target = target
        self.port = free_ports(1)[0]
        self.held = threading.Event()  # something that `hold` asked for has come, and waits
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._pairs: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._released = asyncio.Event()
        self._hold: tuple[bytes, ...] = ()
        self._lose: tuple[bytes, ...] = ()

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def refuse(self) -> None:
        """End every connection, and take no more."""
        self._call(self._close())

    def freeze(self) -> None:
        """Say nothing any more, to anybody, and end nothing."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def mend(self) -> None:
        """As if nothing had been; what a freeze has kept goes on its way."""
        self._call(self._mend())

    @contextlib.contextmanager
    def holding(self, *patterns: bytes) -> Iterator[None]:
        """Keep back what a client sends from the first message on that has all of these, for the block."""
        self.held.clear()
        self._loop.call_soon_threadsafe(self._released.clear)
        self._hold = patterns
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        """Let go of what is held, and hold nothing more."""
        self._hold = ()
        self._loop.call_soon_threadsafe(self._released.set)

    def lose_answer_after(self, *patterns: bytes) -> None:
        """Once a connection has sent all of these, in this order, end it without the answer to the last."""
        self._lose = patterns

    def _call(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(WAIT_S)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=512)

    async def _mend(self) -> None:
        self._flowing.set()
        if self._server is None:
            await self._listen()

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for pair in list(self._pairs):
            pair.cancel()
        await asyncio.gather(*self._pairs, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pair = asyncio.current_task()
        assert pair is not None
        self._pairs.add(pair)
        ours: list[asyncio.StreamWriter] = [writer]
        try:
            await self._flowing.wait()
            their_reader, their_writer = await self._connect()
            ours.append(their_writer)
            ways = [
                asyncio.create_task(self._carry(reader, their_writer, writer)),
                asyncio.create_task(self._carry(their_reader, writer)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # the other side sees its end
        finally:
            for each in ours:
                each.transport.abort()
            self._pairs.discard(pair)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._target, str):
            return await asyncio.open_unix_connection(self._target)
        return await asyncio.open_connection(*self._target)

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        client: asyncio.StreamWriter | None = None,
    ) -> None:
        """Args: client: where answers go; None: it is the answers that are carried."""
        said = 0  # of the patterns after which the answer is to be lost
        while data := await reader.read(CHUNK):
            await self._flowing.wait()
            if client is not None and self._hold and all(pattern in data for pattern in self._hold):
                self.held.set()
                await self._released.wait()
            while client is not None and said < len(self._lose) and self._lose[said] in data:
                said += 1
            writer.write(data)
            if client is not None and self._lose and said == len(self._lose):
                client.transport.abort()
                self._lose = ()
                await asyncio.sleep(LAST_S)
                return
            await writer.drain()


@contextlib.contextmanager
def before_database(url: str) -> Iterator[tuple[Proxy, str]]:
    """A proxy in front of the tests' PostgreSQL, which listens on a Unix socket, and the URL through it."""
    known = sa.make_url(url)
    with Proxy(f"{known.query['host']}/.s.PGSQL.5432") as proxy:
        through = known.set(query={}, host="127.0.0.1", port=proxy.port)
        yield proxy, through.render_as_string(hide_password=False)


@contextlib.contextmanager
def before_objects(endpoint: str) -> Iterator[tuple[Proxy, str]]:
    """A proxy in front of the tests' S3, and the endpoint through it."""
    known = urlsplit(endpoint)
    assert known.hostname is not None
    assert known.port is not None
    with Proxy((known.hostname, known.port)) as proxy:
        yield proxy, f"http://127.0.0.1:{proxy.port}"
