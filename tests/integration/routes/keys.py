"""A service that asks for keys, and callers with one."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partialmethod
from pathlib import Path

from httpx import Response
from starlette.testclient import TestClient

from service import administration
from service.settings import Settings
from service.store.tokens import make_peppers
from tests.integration.routes.local import Local


@contextmanager
def keyed(open_service: Callable[..., object], folder: Path, **settings: object) -> Iterator[Local]:
    folder.mkdir(exist_ok=True)
    make_peppers(folder / "key-peppers")
    with open_service(folder, **{"authentication": "keys", "resolve_cache_s": 0} | settings) as service:
        yield service


def new_key(settings: Settings, *scopes: str, tenant: str = "default") -> tuple[str, str]:
    """A key's text and its id."""
    token, _ = administration.create(settings, name="a test's", scopes=scopes, tenant=tenant)
    return token.text, token.id


class Caller:
    """A client that sends a key with every request; the service's own, since that one has its event loop."""

    def __init__(self, client: TestClient, key: str) -> None:
        self._client = client
        self._headers = {"Authorization": f"Bearer {key}"}

    def request(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **more: object
    ) -> Response:
        return self._client.request(method, path, headers=self._headers | dict(headers or {}), **more)

    get = partialmethod(request, "GET")
    post = partialmethod(request, "POST")
    put = partialmethod(request, "PUT")
    patch = partialmethod(request, "PATCH")
    delete = partialmethod(request, "DELETE")


def caller(service: Local, *scopes: str, tenant: str = "default") -> Caller:
    """Somebody with a key of their own."""
    return Caller(service.client, new_key(service.settings, *scopes, tenant=tenant)[0])
