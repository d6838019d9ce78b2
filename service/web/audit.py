"""One log line for every change that a request has made: who, what, and with what, never an image or a label.

Lines of the logger `audit` are written whatever POLYHEAD_LOG_LEVEL says. A repetition that an Idempotency-Key
answers changes nothing, and has none.
"""

from typing import Any

import structlog
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.telemetry import AUDIT
from service.web.callers import caller_of

Notes = dict[str, Any]

# Operations that change nothing although they aren't GET.
ASKING = frozenset({"predict", "predict_many", "create_embeddings"})
READING = frozenset({"GET", "HEAD", "OPTIONS"})
_PLACE = "polyhead.notes"

log = structlog.stdlib.get_logger(AUDIT)


async def notes_of(request: Request) -> Notes:
    """What a route adds to the line. `unchanged` set, there is none."""
    notes: Notes = request.scope.setdefault(_PLACE, {})
    return notes


class AuditMiddleware:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in READING:
            await self.app(scope, receive, send)
            return
        notes: Notes = scope.setdefault(_PLACE, {})
        start: Message = {}

        async def send_seen(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
            await send(message)

        try:
            await self.app(scope, receive, send_seen)
        finally:  # what was changed stays so, also if the client has gone or its answer failed
            if start and 200 <= start["status"] < 300 and not notes.get("unchanged"):
                _write(scope, start, notes)


def _write(scope: Scope, start: Message, notes: Notes) -> None:
    operation = getattr(scope.get("route"), "operation_id", None)  # None: no route was reached
    if operation is None or operation in ASKING:
        return
    caller, made = caller_of(scope), Headers(raw=start.get("headers", [])).get("location")
    log.info(
        operation,
        tenant=caller.tenant,
        key=None if caller.key is None else caller.key.id,
        path=scope["path"],
        status=start["status"],
        **({} if made is None else {"made": made}),
        **notes,
    )
