"""`Prefer: wait=30` (RFC 7240): an answer that waits for a run to end."""

import asyncio
import re
import time
from functools import partial
from typing import Annotated

import anyio.to_thread
from fastapi import Header

from service.store.records import TERMINAL_STATES, Run
from service.web.parts import Parts

MAX_WAIT_S = 300
FIRST_POLL_S = 0.05
LAST_POLL_S = 1.0

_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})\"?(?=$|[,;\s])", re.IGNORECASE)


async def wait_preference(
    prefer: Annotated[
        str | None, Header(description="`wait=30`: hold the answer until the run ends, 30 seconds at most.")
    ] = None,
) -> int | None:
    """Seconds to hold the answer; None: the caller doesn't want to wait."""
    return wait_of(prefer)


def wait_of(prefer: str | None) -> int | None:
    """What can't be read is ignored, as the RFC has it."""
    found = _WAIT.search(prefer or "")
    return min(int(found.group(1)), MAX_WAIT_S) if found else None


async def ended(parts: Parts, run: Run, wait_s: int | None) -> Run:
    """The run once it has ended, or as it is when the time is up or the server is about to stop.

    Raises: UnknownRun: its task was deleted meanwhile.
    """
    start = time.monotonic()
    while run.state not in TERMINAL_STATES and not parts.engine.draining:
        waited = time.monotonic() - start
        if waited >= (wait_s or 0):
            break
        # Often at first, since a head takes a second; seldom for a run of minutes.
        await asyncio.sleep(min(max(FIRST_POLL_S, waited / 10), LAST_POLL_S))
        run = await anyio.to_thread.run_sync(partial(parts.store.runs.get, run.tenant, run.id))
    return run
