"""Who may do what, decided before anything of a request's body is read.

Each request gets its caller here, also where keys are off; what is behind asks for nobody else.
"""

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from models.errors import PolyheadError
from service.errors import KeyNeeded, MissingScope
from service.settings import Settings
from service.web.callers import ANYBODY, Caller, remember
from service.web.keyring import Keyring
from service.web.problems import respond
from service.web.rates import Rates
from service.web.scopes import missing

# The reference of the API, which tells nothing of what is stored; a browser can't send a key for a page.
DOCUMENTS = ("/openapi.json", "/docs", "/docs/oauth2-redirect", "/static-offline-docs")
HEALTH = frozenset({"/livez", "/readyz"})
OPEN_PROBES = {"all": HEALTH | {"/metrics"}, "health": HEALTH, "none": frozenset[str]()}


class AuthenticationMiddleware:
    def __init__(self, app: ASGIApp, *, settings: Settings, routes: Sequence[BaseRoute]) -> None:
        """Args: routes: of the API, in the order in which the app looks at them."""
        self.app = app
        self._keys_are_on = settings.needs_keys
        self._open = OPEN_PROBES[settings.open_probes]
        self._routes = routes
        self._per_minute = settings.key_requests_per_minute
        self._rates = Rates()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            remember(scope, await self._caller(scope))
        except PolyheadError as error:
            await respond(error, instance=scope["path"])(scope, receive, send)
            return
        await self.app(scope, receive, send)

    async def _caller(self, scope: Scope) -> Caller:
        """Raises: KeyNeeded, InvalidKey, RateLimited, MissingScope, StoreUnavailable."""
        if not self._keys_are_on or self._is_open(scope["path"]):
            return ANYBODY
        text = key_in(Headers(scope=scope))
        if text is None:
            raise KeyNeeded
        keyring: Keyring = scope["app"].state.parts.keyring
        key = await keyring.identify(text)
        caller = Caller(key.tenant, key)
        remember(scope, caller)  # a refusal is logged with the key, too
        per_minute = key.requests_per_minute or self._per_minute
        if per_minute is not None:
            self._rates.admit(key.id, per_minute)
        lacked = missing(self._operation(scope), key.scopes)
        if lacked is not None:
            raise MissingScope(lacked)
        return caller

    def _is_open(self, path: str) -> bool:
        return path in self._open or path in DOCUMENTS or path.startswith(f"{DOCUMENTS[-1]}/")

    def _operation(self, scope: Scope) -> str | None:
        for route in self._routes:
            if route.matches(scope)[0] is Match.FULL:
                return getattr(route, "operation_id", None) or ""  # without one it has no row either
        return None


def key_in(headers: Headers) -> str | None:
    """What a request gives as its key: a bearer token, or else X-API-Key. Never taken from the URL."""
    scheme, _, text = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return text.strip()
    return headers.get("x-api-key")
