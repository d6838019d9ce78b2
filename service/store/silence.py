"""A connection of psycopg that tells a slow server from one that is frozen, and waits for the first only.

TCP can't: the kernel of a frozen server, or a pooler in front of it, takes bytes and answers keep-alives for
ever. Imported only where PostgreSQL is used: psycopg is an extra.
"""

import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import psycopg
from psycopg.errors import ConnectionTimeout
from psycopg.waiting import Ready

Result = TypeVar("Result")
Steps = Generator[Any, Any, Result]  # what psycopg waits for: yields what it needs, is sent what is there


class BoundedConnection(psycopg.Connection[Any]):
    """Asks, when an answer takes long, whether the server answers anybody; if not, the connection ends."""

    silence_s = float("inf")  # after which it asks, again and again
    ask: Callable[[], None]  # raises ConnectionTimeout where nobody is answered

    @classmethod
    def open(cls, *arguments: Any, silence_s: float, **options: Any) -> "BoundedConnection":
        """Connect as `psycopg.connect` does, which `connect_timeout` bounds."""
        connection = cls.connect(*arguments, **options)

        def ask() -> None:
            try:
                psycopg.connect(*arguments, **options).close()
            except ConnectionTimeout:
                raise
            except psycopg.Error:
                return  # an answer of a kind; what has become of this connection, TCP will say

        connection.silence_s = silence_s
        connection.ask = ask
        return connection

    def wait(self, gen: Steps[Result], *arguments: Any, **options: Any) -> Result:
        """Raises: ConnectionTimeout: the server says nothing, to anybody."""
        return super().wait(_watched(gen, self.silence_s, self._ask), *arguments, **options)

    def _ask(self) -> None:
        try:
            self.ask()
        except ConnectionTimeout:
            self.pgconn.finish()  # nothing that is said on it, not even a rollback, would be answered
            raise


def _watched(steps: Steps[Result], silence_s: float, ask: Callable[[], None]) -> Steps[Result]:
    """The same steps; `ask` is called whenever nothing has come for `silence_s`."""
    heard_at = time.monotonic()
    try:
        needed = next(steps)
        while True:
            there = yield needed
            if there != Ready.NONE:
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > silence_s:
                ask()
                heard_at = time.monotonic()
            needed = steps.send(there)
    except StopIteration as done:
        result: Result = done.value
        return result
