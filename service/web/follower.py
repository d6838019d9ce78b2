"""The thread of an API process that hears what other processes publish, roll back and delete."""

import threading
from collections.abc import Callable, Collection

from service.store.database import Database
from service.store.notices import ALIASES, Listener

WAIT_S = 1.0  # between looks whether it is to end, and between attempts to connect


class Follower:
    """Tells which tasks' pointers moved, soon after they did, where the database has notices.

    It may miss some, while the connection is cut or behind a pooler: what is told is only ever a hint.
    """

    def __init__(self, database: Database, tell: Callable[[Collection[str]], object]) -> None:
        """Follow until `close`.

        Args: tell: takes the ids of tasks, in the follower's thread.
        """
        self._listener = Listener(database, ALIASES)
        self._tell = tell
        self._closing = threading.Event()
        if self._listener.hears:
            # A daemon, and nobody waits for it: it may be connecting, and it holds nothing that matters.
            threading.Thread(target=self._run, name="follower", daemon=True).start()

    def close(self) -> None:
        """It ends by itself then, in a second or so."""
        self._closing.set()

    def _run(self) -> None:
        while not self._closing.is_set():
            moved = self._listener.wait(WAIT_S, self._closing)
            if moved:
                self._tell(frozenset(moved))
        self._listener.close()
