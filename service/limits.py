"""The size of request bodies, also of those that don't say it beforehand."""

import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BodyTooLarge
from service.problems import respond
from service.settings import Settings

_UPLOADS = re.compile(r"/v1/tasks/[^/]+/examples")  # the one place that takes archives


class BodyLimitMiddleware:
    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self.app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        limit = self._limit(scope, headers)
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > limit:
            await respond(BodyTooLarge(limit=limit), instance=scope["path"])(scope, receive, send)
            return
        await self.app(scope, _Counted(receive, limit), send)

    def _limit(self, scope: Scope, headers: Headers) -> int:
        plain = self._settings.max_request_bytes
        if scope["method"] != "POST" or not _UPLOADS.fullmatch(scope["path"]):
            return plain
        # Which part of a form is how large is for its parser to judge.
        is_form = headers.get("content-type", "").lower().startswith("multipart/form-data")
        return plain + self._settings.max_archive_bytes if is_form else plain


class _Counted:
    """A `receive` that raises BodyTooLarge once more has come than allowed."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._size = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self._size += len(message.get("body", b""))
        if self._size > self._limit:
            raise BodyTooLarge(limit=self._limit)
        return message
