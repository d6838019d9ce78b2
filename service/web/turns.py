"""How many requests begin in one turn of the event loop, so that a probe waits for a few and not for all."""

import asyncio
from collections import deque

from starlette.types import ASGIApp, Receive, Scope, Send

from service.web.access import QUIET

AT_ONCE = 4  # what one does before it first waits, such as reading a form: about a millisecond


class TurnsMiddleware:
    """Lets requests begin in the order in which they came, but for probes: these go ahead.

    A loop that runs whatever is ready would else do so for hundreds that came at one moment, before it looks
    at what came next. Requests that don't come in such crowds wait for nothing.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._begun = 0  # in this turn
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in QUIET:
            await self._turn()
        await self.app(scope, receive, send)

    async def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        if self._begun == AT_ONCE:
            turn = loop.create_future()
            self._waiting.append(turn)
            await turn
            return
        if not self._begun:
            loop.call_soon(self._next)
        self._begun += 1

    def _next(self) -> None:
        """The next turn: those who waited the longest begin in it."""
        self._begun = 0
        while self._waiting and self._begun < AT_ONCE:
            turn = self._waiting.popleft()
            if not turn.done():  # cancelled, where the server is about to stop
                turn.set_result(None)
                self._begun += 1
        if self._begun:
            asyncio.get_running_loop().call_soon(self._next)
