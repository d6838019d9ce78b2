"""One warm process for the trainer's heavy work: it may be killed at any moment, and comes back.

Not a library's pool: there, a worker that is killed while idle breaks the pool, progress needs a channel of
its own, and a stop is a signal that native code answers late. Here each process has one pipe, made for it
and thrown away with it, on which progress and results come in order.
"""

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from models.errors import PolyheadError
from service.errors import RunFailed
from service.process import die_with, take_name

Job = TypeVar("Job")
Result = TypeVar("Result")
Report = Callable[[dict[str, Any]], None]
"""Takes the progress of a piece of work: a small dict that goes to the run's readers."""

CHECK_S = 0.05  # between two looks whether the work is still wanted
LAST_S = 1.0  # that an idle process gets to end by itself


class ChildCrashed(Exception):
    """The work raised what nobody foresaw; the message is its stack trace, for the log."""


class _Raised(Exception):
    """Carries what the work raised, apart from what this side of the pipe raises."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class Child:
    """Runs module-level functions of one job in a process of its own, one at a time."""

    def __init__(self, warm: Callable[[Job, Report], None], job: Job) -> None:
        """Start the process; its first work is `warm(job, …)`, which has ready what later work will need.

        What that raises, the first call raises.
        """
        self._context = multiprocessing.get_context("spawn")  # a fork would inherit locks of our threads
        self._warm_up = (warm, job)
        self._ready = False  # True once it is warm
        self._idle = False  # True between two pieces of work
        self._start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def call(
        self,
        work: Callable[[Job, Report], Result],
        job: Job,
        *,
        report: Report,
        check: Callable[[], None],
    ) -> Result:
        """Run `work(job, report)` there and wait for it.

        Args:    check: called every 50 ms; what it raises kills the work and is raised from here.
        Raises:  PolyheadError: raised by the work.
                 RunFailed: the process died, of a signal or for want of memory.
                 ChildCrashed: the work raised anything else.
        """
        if not self._process.is_alive():  # killed while it was idle
            self.restart()
        try:
            if not self._ready:
                self._await(report, check)
                self._ready = True
            self._idle = False
            self._connection.send((work, job))
            done: Result = self._await(report, check)
            self._idle = True
        except (EOFError, OSError) as error:
            raise self._died() from error
        except _Raised as raised:
            if not self._ready:
                self.restart()
            else:
                self._idle = True
            raise raised.error from None
        except BaseException:
            self.restart()
            raise
        return done

    def restart(self) -> None:
        """Kill the process and whatever it does, and start another."""
        self._kill()
        self._start()

    def close(self) -> None:
        """End the process; an idle one may tidy up, so that no semaphore of a library is left over."""
        self._connection.close()
        if self._idle:
            self._process.join(LAST_S)
        self._kill()

    def _kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _start(self) -> None:
        self._connection, theirs = self._context.Pipe()
        self._process = self._context.Process(
            target=_serve, args=(theirs, os.getpid()), name="polyhead-fit", daemon=True
        )
        self._process.start()
        theirs.close()  # so that its death is the end of the pipe
        self._connection.send(self._warm_up)
        self._ready = False
        self._idle = False

    def _await(self, report: Report, check: Callable[[], None]) -> Any:
        """The next answer; progress on the way is reported."""
        while True:
            check()
            if not wait([self._connection], CHECK_S):
                continue
            kind, said = self._connection.recv()
            if kind == "done":
                return said
            if kind == "failed":
                raise _Raised(said)
            report(said)

    def _died(self) -> RunFailed:
        self._process.join(1)
        code = self._process.exitcode
        self.restart()
        if code == -signal.SIGKILL:
            return RunFailed("the process that did the work was killed, perhaps for want of memory")
        return RunFailed(f"the process that did the work ended with exit code {code}")


def _serve(connection: Connection, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the trainer decides
    die_with(parent)
    take_name("polyhead-fit")
    while True:
        try:
            work, job = connection.recv()
        except EOFError:
            return
        connection.send(_outcome(work, job, lambda progress: connection.send(("progress", progress))))


def _outcome(work: Callable[[Any, Report], Any], job: Any, report: Report) -> tuple[str, Any]:
    try:
        return "done", work(job, report)
    except PolyheadError as error:
        return "failed", error
    except MemoryError:
        return "failed", RunFailed("the work needed more memory than there is")
    except Exception:  # noqa: BLE001 - the border of the process: the trainer logs what nobody foresaw
        return "failed", ChildCrashed(traceback.format_exc())
