"""Ids that are unique and sort by the time they were made, so that a page's cursor can be an id."""

import secrets
import threading
import time

_lock = threading.Lock()
_last = 0


def new_id(prefix: str) -> str:
    """`prefix_`, 14 hex digits of microseconds since the epoch, 12 random ones.

    Within a process each id is greater than the one before, even when the clock is set back.
    """
    global _last  # noqa: PLW0603  # the order within a process is the process's
    with _lock:
        _last = max(time.time_ns() // 1000, _last + 1)
        return f"{prefix}_{_last:014x}{secrets.token_hex(6)}"
