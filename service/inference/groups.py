"""Heads that are asked for together again and again, such as an app's fifty tasks, as one session."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import structlog

from service.inference.batching import Group, HeadRef

FEWEST = 8  # heads; what fewer would save is not worth a second copy of their weights
AGAIN = 3  # times that they are asked for, before it is worth a session
MOST_BYTES = 2**25  # of the files of all groups; the least recently used make room
MOST_SEEN = 256  # groups that are remembered, with a session or without

log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True)
class Asked:
    """A group that was asked for."""

    bytes: int
    times: int = 0
    session: "Future[Group] | None" = None


class HeadGroups:
    """Groups by their heads, in order. Heads never change, so nothing is ever stale."""

    def __init__(self, open_group: Callable[[Sequence[HeadRef]], "Future[Group]"]) -> None:
        """Args: open_group: begins to open one, beside other work."""
        self._open = open_group
        self._asked = OrderedDict[tuple[str, ...], Asked]()

    def find(self, refs: Sequence[HeadRef], size: int) -> Group | None:
        """The session of these heads, if there is one by now. Args: size: bytes of their files."""
        digests = tuple(ref.digest for ref in refs)
        asked = self._asked.setdefault(digests, Asked(size))
        self._asked.move_to_end(digests)
        asked.times += 1
        if asked.times == AGAIN and size <= MOST_BYTES:
            asked.session = self._open(refs)
            while self._bytes > MOST_BYTES:
                self._asked.popitem(last=False)
        if len(self._asked) > MOST_SEEN:
            self._asked.popitem(last=False)
        if asked.session is None or not asked.session.done():
            return None
        error = asked.session.exception()
        if error is not None:  # the heads run one by one, and tell what is wrong with one
            log.warning("heads can't be run together", heads=len(refs), error=str(error))
            asked.session = None
            return None
        return asked.session.result()

    @property
    def _bytes(self) -> int:
        return sum(asked.bytes for asked in self._asked.values() if asked.session is not None)
