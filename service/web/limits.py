"""The size of request bodies: of each, also where it isn't said beforehand, and of all at once.

Of JSON the number of values, too: a parsed one, and the complaint about one, take hundreds of bytes, so that
a body of a few megabytes could take a gigabyte.
"""

import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.errors import PolyheadError
from service.errors import BodyTooLarge, Overloaded, TooManyValues
from service.settings import Settings
from service.web.problems import respond

HELD_BODIES = 8  # of the largest size: what one process holds in memory before it refuses more
MAX_VALUES = 100_000  # of a JSON body: several times what the most images with the most labels have

_VALUES = (b",", b"[", b"{")  # at least one of them for every value but the first; base64 has none
_UPLOADS = re.compile(r"/v1/tasks/[^/]+/examples")  # the one place that takes archives


class BodyLimitMiddleware:
    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self.app = app
        self._settings = settings
        self._held = Held(HELD_BODIES * settings.max_request_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        in_memory = self._settings.max_request_bytes
        counted = _Counted(receive, self._limit(scope, headers), in_memory, self._held)
        body = _Values(counted) if "json" in headers.get("content-type", "").lower() else counted
        try:
            counted.expect(headers.get("content-length", ""))
            await self.app(scope, body, send)
        except PolyheadError as error:
            await respond(error, instance=scope["path"])(scope, receive, send)
        finally:
            counted.release()

    def _limit(self, scope: Scope, headers: Headers) -> int:
        plain = self._settings.max_request_bytes
        if scope["method"] != "POST" or not _UPLOADS.fullmatch(scope["path"]):
            return plain
        # Which part of a form is how large is for its parser to judge.
        is_form = headers.get("content-type", "").lower().startswith("multipart/form-data")
        return plain + self._settings.max_archive_bytes if is_form else plain


class Held:
    """The bytes of all requests that are being answered."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0


class _Counted:
    """A `receive` that stops at what is allowed."""

    def __init__(self, receive: Receive, limit: int, in_memory: int, held: Held) -> None:
        self._receive = receive
        self._limit = limit
        self._in_memory = in_memory  # the rest of a larger body goes to disk as it comes
        self._held = held
        self._size = 0
        self._own = 0  # of `held`

    def expect(self, content_length: str) -> None:
        """Raises: BodyTooLarge, Overloaded."""
        if content_length.isdecimal():
            self._admit(int(content_length))

    async def __call__(self) -> Message:
        """Raises: BodyTooLarge, Overloaded."""
        message = await self._receive()
        self._size += len(message.get("body", b""))
        self._admit(self._size)
        return message

    def release(self) -> None:
        self._held.size -= self._own
        self._own = 0

    def _admit(self, size: int) -> None:
        if size > self._limit:
            raise BodyTooLarge(limit=self._limit)
        grown = max(self._own, min(size, self._in_memory))
        others = self._held.size - self._own
        if others and others + grown > self._held.limit:
            raise Overloaded
        self._held.size += grown - self._own
        self._own = grown


class _Values:
    """A `receive` that stops at the number of values that a JSON body may have."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._seen = 0

    async def __call__(self) -> Message:
        """Raises: TooManyValues; and as the `receive` within."""
        message = await self._receive()
        body = message.get("body", b"")
        self._seen += sum(body.count(mark) for mark in _VALUES)
        if self._seen > MAX_VALUES:
            raise TooManyValues(limit=MAX_VALUES)
        return message
