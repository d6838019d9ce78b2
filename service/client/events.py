"""Following a run live: its stored events over server-sent events, resumed by id after a break."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from service.client.api import RETRIED_STATUSES, Client, Json, Refused, Unreachable

TERMINAL_STATES = frozenset({"succeeded", "failed", "cancelled"})
PAUSE_S = 1.0  # before reconnecting


@dataclass(frozen=True, slots=True)
class Event:
    id: str
    event: str  # state, progress
    data: dict[str, Any]


def parse_events(lines: Iterable[str]) -> Iterator[Event]:
    """The events of a text/event-stream; comments (pings) and unknown fields are passed over."""
    id_, name, data = "", "message", list[str]()
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield Event(id=id_, event=name, data=json.loads("\n".join(data)))
            name, data = "message", []
        elif field == "id":
            id_ = value
        elif field == "event":
            name = value
        elif field == "data":
            data.append(value)


def follow_run(
    client: Client,
    run_id: str,
    *,
    on_event: Callable[[Event], None],
    sleep: Callable[[float], None] = time.sleep,
) -> Json:
    """Wait for a run's end and return the run; `on_event` hears each event once.

    A broken stream is resumed after its last event; the run itself is read in between, so that it is also
    followed, more coarsely, where something on the way doesn't let streams through.

    Raises: Unreachable: the service stayed away for the client's whole patience.
    """
    last_id = ""
    while True:
        try:
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
            with client.stream(f"/v1/runs/{run_id}/events", headers=headers) as response:
                for event in parse_events(response.iter_lines()):
                    last_id = event.id or last_id
                    on_event(event)
        except Unreachable:
            pass  # the stream broke; the next read says whether the service is still there
        except Refused as refused:
            if refused.status not in RETRIED_STATUSES:
                raise
        run = client.get(f"/v1/runs/{run_id}")
        if run["state"] in TERMINAL_STATES:
            return run
        sleep(PAUSE_S)
