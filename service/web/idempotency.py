"""`Idempotency-Key`: a request that is sent again gets the first one's answer, and does nothing.

The body is hashed as it streams by, so that an archive needs no second copy; a repetition is known by key,
method, path and that digest. Answers of 500 and above, 429 and large ones aren't kept: such a request may be
sent again.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio.to_thread
import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.errors import PolyheadError
from service.errors import IdempotencyKeyReused, MalformedRequest
from service.store import Store
from service.store.records import StoredResponse
from service.web.callers import caller_of
from service.web.problems import respond

METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})
MAX_STORED_BYTES = 2**20
NOT_STORED = frozenset({408, 429})
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_BOUNDARY = re.compile(r'boundary="?([^";,]{1,70})"?', re.IGNORECASE)
_NOT_REPLAYED = frozenset({"content-length", "date", "server", "x-request-id"})
_DIGEST = "x-polyhead-body-digest"  # kept with the headers, never sent

log = structlog.stdlib.get_logger(__name__)


class BodyHash:
    """The digest of a body as it arrives, the same whatever boundary a multipart body uses.

    Clients choose a new boundary for each try, so it is left out of what is hashed, also where it straddles
    two chunks.
    """

    def __init__(self, content_type: str) -> None:
        self._hash = hashlib.sha256()
        found = _BOUNDARY.search(content_type) if content_type.lower().startswith("multipart/") else None
        self._boundary = found.group(1).encode("latin-1") if found else b""
        self._held = b""  # the end of what has come: the boundary may have begun in it

    def update(self, chunk: bytes) -> None:
        if not self._boundary:
            self._hash.update(chunk)
            return
        *whole, rest = (self._held + chunk).split(self._boundary)
        for piece in whole:
            self._hash.update(piece)
        keep = min(len(self._boundary) - 1, len(rest))
        self._hash.update(rest[: len(rest) - keep])
        self._held = rest[len(rest) - keep :]

    def hexdigest(self) -> str:
        final = self._hash.copy()
        final.update(self._held)
        return final.hexdigest()


@dataclass
class _Body:
    """The request's body on its way to the app."""

    receive: Receive
    hash: BodyHash
    complete: bool = False

    async def __call__(self) -> Message:
        message = await self.receive()
        if message["type"] == "http.request":
            self.hash.update(message.get("body", b""))
            self.complete = not message.get("more_body", False)
        return message

    async def drain(self) -> bool:
        """Read on to the end; False if the client went away first."""
        while not self.complete:
            if (await self())["type"] == "http.disconnect":
                return False
        return True


@dataclass
class _Answer:
    """The app's answer, held back until it is whole and stored, or too large for that."""

    send: Send
    settle: Callable[["_Answer"], Awaitable[None]]
    start: Message | None = None
    body: bytearray = field(default_factory=bytearray)
    passing: bool = False  # what comes goes straight on

    @property
    def status(self) -> int:
        return int(self.start["status"]) if self.start else 500

    async def __call__(self, message: Message) -> None:
        if self.passing:
            await self.send(message)
        elif message["type"] == "http.response.start":
            self.start = message
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")
            ended = not message.get("more_body", False)
            if ended or len(self.body) > MAX_STORED_BYTES:
                await self._release(ended=ended)

    async def _release(self, *, ended: bool) -> None:
        assert self.start is not None
        await self.settle(self)
        self.passing = True
        await self.send(self.start)
        await self.send({"type": "http.response.body", "body": bytes(self.body), "more_body": not ended})


class IdempotencyMiddleware:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in METHODS:
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        key = headers.get("idempotency-key")
        if key is None:
            await self.app(scope, receive, send)
            return
        body = _Body(receive, BodyHash(headers.get("content-type", "")))
        try:
            stored = await self._begin(scope, key)
            if stored is not None:
                await _replay(stored, body, scope, send)
                return
        except PolyheadError as error:
            await respond(error, instance=scope["path"])(scope, receive, send)
            return
        await self._answer(scope, key, body, send)

    async def _begin(self, scope: Scope, key: str) -> StoredResponse | None:
        if not _KEY.fullmatch(key):
            raise MalformedRequest("an Idempotency-Key is 1 to 255 visible ASCII characters")
        begin = _store(scope).idempotency.begin
        return await anyio.to_thread.run_sync(begin, caller_of(scope).tenant, key, _fingerprint(scope))

    async def _answer(self, scope: Scope, key: str, body: _Body, send: Send) -> None:
        store, tenant, settled = _store(scope), caller_of(scope).tenant, False

        async def settle(answer: _Answer) -> None:
            nonlocal settled
            settled = True
            if await _worth_storing(answer, body):
                said = _stored(answer, body, _fingerprint(scope))
                await anyio.to_thread.run_sync(store.idempotency.finish, tenant, key, said)
            else:
                await anyio.to_thread.run_sync(store.idempotency.abandon, tenant, key)

        async def settle_quietly(answer: _Answer) -> None:
            """What was asked for is done, or has failed: losing the key mustn't change the answer."""
            try:
                await settle(answer)
            except PolyheadError as error:
                log.warning("an Idempotency-Key was lost", reason=str(error))

        answer = _Answer(send, settle_quietly)
        try:
            await self.app(scope, body, answer)
        finally:
            if not settled:
                await settle_quietly(answer)


async def _worth_storing(answer: _Answer, body: _Body) -> bool:
    if answer.status >= 500 or answer.status in NOT_STORED or len(answer.body) > MAX_STORED_BYTES:
        return False
    try:
        return await body.drain()  # a route without a body hasn't read it
    except PolyheadError:  # it is over the limit
        return False


def _stored(answer: _Answer, body: _Body, fingerprint: str) -> StoredResponse:
    assert answer.start is not None
    headers = {
        name: value
        for name, value in Headers(raw=answer.start.get("headers", [])).items()
        if name not in _NOT_REPLAYED
    }
    return StoredResponse(
        request_digest=fingerprint,
        status=answer.status,
        headers=headers | {_DIGEST: body.hash.hexdigest()},
        body=bytes(answer.body),
    )


async def _replay(stored: StoredResponse, body: _Body, scope: Scope, send: Send) -> None:
    """Raises: IdempotencyKeyReused: the body is another one."""
    if not await body.drain():
        return
    kept = dict(stored.headers)
    if body.hash.hexdigest() != kept.pop(_DIGEST):
        raise IdempotencyKeyReused
    response = Response(stored.body, stored.status)
    headers = MutableHeaders(raw=response.raw_headers)
    headers.update(kept)
    headers["Idempotent-Replayed"] = "true"
    await response(scope, body, send)


def _fingerprint(scope: Scope) -> str:
    """sha256 of what the key was first used for, apart from the body, which hasn't come yet."""
    query = scope.get("query_string", b"").decode("latin-1")
    return hashlib.sha256(f"{scope['method']} {scope['path']}?{query}".encode()).hexdigest()


def _store(scope: Scope) -> Store:
    store: Store = scope["app"].state.parts.store
    return store
