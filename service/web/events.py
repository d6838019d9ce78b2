"""A run's stored events as server-sent events, from any point on, until its last."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial

import anyio.to_thread
from sse_starlette.event import ServerSentEvent

from service.errors import UnknownRun
from service.store.records import TERMINAL_STATES, Run, RunEvent
from service.web.callers import Caller
from service.web.parts import Parts

POLL_S = 0.2
BATCH = 500


def read_events(parts: Parts, run: Run, after: int) -> tuple[list[RunEvent], bool]:
    """The next stored events, and whether the run has ended without more of them.

    Raises: UnknownRun.
    """
    # The state first: an event written between the two reads is then only found a poll later.
    ended = parts.store.runs.get(run.tenant, run.id).state in TERMINAL_STATES
    events = parts.store.runs.events(run.id, after=after, limit=BATCH)
    return events, ended and len(events) < BATCH


async def stream(parts: Parts, run: Run, after: int, caller: Caller) -> AsyncIterator[ServerSentEvent]:
    """Every event after the one named, as it is written, until the run, the server or the key ends."""
    while not parts.engine.draining and await _is_let_in(parts, caller):
        try:
            events, ended = await anyio.to_thread.run_sync(partial(read_events, parts, run, after))
        except UnknownRun:  # its task was deleted
            return
        for event in events:
            after = event.id
            yield ServerSentEvent(
                data=json.dumps(event.data, ensure_ascii=False), event=event.event, id=str(event.id), sep="\n"
            )
        if ended:
            return
        await asyncio.sleep(POLL_S)


async def _is_let_in(parts: Parts, caller: Caller) -> bool:
    return parts.keyring is None or caller.key is None or await parts.keyring.is_valid(caller.key)


def last_event_id(header: str | None) -> int:
    """Where a reconnecting client left off; what was never given out starts from the beginning."""
    return (
        int(header)
        if header is not None and header.isascii() and header.isdigit() and len(header) < 18
        else 0
    )
