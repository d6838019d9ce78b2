"""Ids that are unique and sort by the time they were made, so that a page's cursor can be an id."""

import re
import secrets
import threading
import time

_ID = re.compile(r"([a-z]+)_[0-9a-f]{26}")
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


def is_id(text: str, prefix: str) -> bool:
    """Whether `new_id` may have made it."""
    found = _ID.fullmatch(text)
    return found is not None and found[1] == prefix
