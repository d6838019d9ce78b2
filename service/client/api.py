"""A thin client of the HTTP contract: JSON values in and out, every error one clear line.

ClientError
├── Unreachable   nothing answers at the URL, or not in time
└── Refused       the service answered with a problem
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

Json = dict[str, Any]

RETRIED_STATUSES = frozenset({429, 503})  # overloaded, not ready: the same request may pass shortly
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 10.0
CHUNK_BYTES = 1 << 20


class ClientError(Exception):
    """One line for the terminal."""


class Unreachable(ClientError):
    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"no answer from {url}: {reason}. Is `polyhead serve` running there?")


class Refused(ClientError):
    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.code = str(problem.get("code", "unknown"))
        self.problem = problem
        super().__init__(describe_problem(problem, status))


class Client:
    """The calls that the commands make, with 429, 503 and a lost connection waited out for a while."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 120.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Open no connection yet.

        Args: api_key: sent as a bearer token.
              timeout_s: seconds that one call may take, waiting out an overloaded server included.
        """
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._sleep = sleep
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key.strip()}"}
        self._http = httpx.Client(
            base_url=self.url, headers=headers, timeout=httpx.Timeout(timeout_s, connect=5.0)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str, **parameters: Any) -> Json:
        return self._json(self._send("GET", path, params=parameters))

    def post(self, path: str, **request: Any) -> Json:
        """POST; a problem raises Refused, a 207's failed items stay in the answer."""
        return self._json(self._send("POST", path, **request))

    def reach(self) -> Json:
        """The backbone's description; raises Unreachable at once where nothing listens."""
        return self._json(self._send("GET", "/v1/backbone", patience_s=0.0))

    def ensure_task(self, name: str, kind: str | None) -> tuple[Json, bool]:
        """The task, and whether it was created now; `kind` None takes an existing task as it is."""
        try:
            return self.get(task_path(name)), False
        except Refused as refused:
            if refused.status != httpx.codes.NOT_FOUND:
                raise
        try:
            return self.post("/v1/tasks", json={"name": name, "kind": kind or "multiclass"}), True
        except Refused as refused:
            if refused.code != "task_exists":  # made by another client in between
                raise
            return self.get(task_path(name)), False

    def pages(self, path: str, **parameters: Any) -> Iterator[Json]:
        """Every item of a list, page after page."""
        after: str | None = None
        while True:
            page = self.get(path, **parameters, **({} if after is None else {"after": after}))
            yield from page["data"]
            after = page.get("next")
            if not page.get("has_more") or after is None:
                return

    def download(self, path: str, target: Path) -> int:
        """Stream a file to disk and return its size in bytes."""
        with self.stream(path) as response, target.open("wb") as file:
            for chunk in response.iter_bytes(CHUNK_BYTES):
                file.write(chunk)
        return target.stat().st_size

    @contextmanager
    def stream(self, path: str, headers: Mapping[str, str] | None = None) -> Iterator[httpx.Response]:
        """An answer read as it comes, tried once: the reader knows how to resume."""
        try:
            with self._http.stream("GET", path, headers=headers) as response:
                if response.is_error:
                    response.read()
                    raise Refused(response.status_code, problem_of(response))
                yield response
        except httpx.TransportError as lost:
            raise Unreachable(self.url, str(lost) or type(lost).__name__) from lost

    def _send(
        self, method: str, path: str, *, patience_s: float | None = None, **request: Any
    ) -> httpx.Response:
        patience_s = self._timeout_s if patience_s is None else patience_s
        pause_s = FIRST_PAUSE_S
        until = time.monotonic() + patience_s
        while True:
            failure, asked_s = None, 0.0
            try:
                response = self._http.request(method, path, **request)
            except httpx.TimeoutException as late:
                raise Unreachable(self.url, f"nothing within {self._timeout_s:g} seconds") from late
            except httpx.TransportError as lost:
                failure = Unreachable(self.url, str(lost) or type(lost).__name__)
            else:
                if response.status_code not in RETRIED_STATUSES:
                    return response
                asked_s = retry_after_s(response)
            pause_s = max(pause_s, asked_s)
            if time.monotonic() + pause_s > until:
                if failure is not None:
                    raise failure
                return response
            self._sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _json(self, response: httpx.Response) -> Json:
        if response.is_error:
            raise Refused(response.status_code, problem_of(response))
        try:
            said = response.json()
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise Unreachable(self.url, "something answers there, but not in the service's JSON")
        return said


def task_path(task: str, *more: str) -> str:
    return "/v1/tasks/" + "/".join(quote(part, safe="") for part in (task, *more))


def retry_after_s(response: httpx.Response) -> float:
    """Seconds that the service asks to wait; 0 where it doesn't say (an HTTP date is not read)."""
    said = response.headers.get("Retry-After", "")
    return float(said) if said.isdigit() else 0.0


def problem_of(response: httpx.Response) -> Json:
    """The problem+json of an error, or one made of whatever came instead (a proxy's page, say)."""
    try:
        said = response.json()
    except ValueError:
        said = None
    if isinstance(said, dict) and ("code" in said or "detail" in said or "title" in said):
        return said
    return {"code": "unknown", "detail": f"{response.reason_phrase or 'error'} from {response.url}"}


def describe_problem(problem: Mapping[str, Any], status: int | None = None) -> str:
    """`422 invalid_field: kind must be one of … (/kind: …)`, always one line."""
    status = problem.get("status", status)
    said = problem.get("detail") or problem.get("title") or "no detail given"
    more = [field for field in problem.get("errors") or () if str(field.get("detail")) not in str(said)]
    fields = [f"{field.get('parameter') or field.get('pointer')}: {field.get('detail')}" for field in more]
    where = f" ({'; '.join(fields)})" if fields else ""
    code = " ".join(str(part) for part in (status, problem.get("code", "unknown")) if part is not None)
    return " ".join(f"{code}: {said}{where}".split())
