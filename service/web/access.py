"""One log line a request, its id on every line and answer, and the last resort for what nobody foresaw."""

import re
import time
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.metrics import REQUEST_SECONDS, REQUESTS
from service.web.callers import named
from service.web.problems import internal_error

REQUEST_ID = "X-Request-ID"
QUIET = frozenset({"/livez", "/readyz", "/metrics"})  # asked every few seconds by machines
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
CLIENT_WENT_AWAY = 499  # nginx's; only logged, nobody is there to read it

_SAFE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")

log = structlog.stdlib.get_logger(__name__)


class AccessMiddleware:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(scope)
        started, status = time.perf_counter(), 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, receive, send_marked)
            except ClientDisconnect:
                status = CLIENT_WENT_AWAY
            except Exception:  # the border of the process: nothing above could say it better
                log.exception("a request failed", method=scope["method"], path=scope["path"])
                if status:  # half an answer is out: a broken connection says that it isn't whole
                    raise
                await internal_error(instance=scope["path"])(scope, receive, send_marked)
            finally:
                _note(scope, status, time.perf_counter() - started)


def _note(scope: Scope, status: int, seconds: float) -> None:
    route = getattr(scope.get("route"), "path", "none")  # the template, not the path: it names no task
    method = scope["method"] if scope["method"] in METHODS else "other"  # it may be any word
    REQUESTS.labels(method, route, str(status)).inc()
    REQUEST_SECONDS.labels(method, route).observe(seconds)
    write = log.debug if scope["path"] in QUIET else log.info
    write(
        "request",
        method=scope["method"],
        path=scope["path"],
        status=status,
        milliseconds=round(1000 * seconds, 1),
        **named(scope),
    )


def _request_id(scope: Scope) -> str:
    """The caller's id, if it can't break a log or a header, else a new one."""
    said = Headers(scope=scope).get(REQUEST_ID, "")
    return said if _SAFE_ID.fullmatch(said) else f"req_{uuid.uuid4().hex}"
