"""The processes of a run: each in a session of its own, frozen while another is measured, and ended."""

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ANSWER_S = 600.0  # the longest that a child may work on one order
READY_S = 180.0  # a cold start exports the backbone
TICKS = os.sysconf("SC_CLK_TCK")


class BenchFailed(Exception):
    """A contender did something else than it should, so that nothing may be concluded."""


@dataclass(frozen=True, slots=True)
class Running:
    """A process with all that it started."""

    process: "subprocess.Popen[bytes]"  # leads the session
    log: Path

    def members(self) -> dict[int, str]:
        """Pids and names of the session's live processes."""
        return {pid: name for pid, name, session, _ in _processes() if session == self.process.pid}

    def cpu_s(self) -> float:
        """Seconds of CPU, user and system, that the live processes have used."""
        return session_cpu_s(self.process.pid)

    def private_mb(self, name: str) -> float:
        """Memory that only the process of this name holds, MB."""
        (pid,) = [pid for pid, comm in self.members().items() if comm == name]
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text("utf-8").splitlines()
        sizes = [int(line.split()[1]) for line in lines if line.startswith("Private_")]
        return sum(sizes) / 1024

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stopped, so that its idle loops take nothing from what is measured meanwhile."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def tail(self, size: int = 3000) -> str:
        return self.log.read_text("utf-8", errors="replace")[-size:]

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


@contextlib.contextmanager
def running(
    command: list[str],
    log: Path,
    environment: dict[str, str] | None = None,
    *,
    python: Path | None = None,
) -> Iterator[Running]:
    """Start `python -m …` and leave nothing of it behind. Args: python: None: ours."""
    dropped = ("POLYHEAD_", "PROMETHEUS_", "LIT_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    with log.open("ab") as file:
        process = subprocess.Popen(
            [python or sys.executable, "-m", *command],
            env=clean | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    started = Running(process, log)
    try:
        yield started
    finally:
        _end(started)


def wait_for_http(started: Running, url: str) -> float:
    """Wait until GET `url` answers 200; seconds from the call. Raises: BenchFailed."""
    begun = time.monotonic()
    with httpx.Client(timeout=5) as client:
        while time.monotonic() - begun < READY_S:
            if started.process.poll() is not None:
                raise BenchFailed(f"it ended with {started.process.returncode}\n{started.tail()}")
            with contextlib.suppress(httpx.HTTPError):
                if client.get(url).status_code == 200:
                    return time.monotonic() - begun
            time.sleep(0.02)
    raise BenchFailed(f"{url} did not answer within {READY_S} s\n{started.tail()}")


class Child:
    """A helper that takes orders as JSON lines on its input and answers each with one."""

    def __init__(self, module: str, log: Path) -> None:
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                start_new_session=True,
            )
        self._log = log
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def ask(self, **order: Any) -> dict[str, Any]:
        """Raises: BenchFailed: it died, or took longer than ANSWER_S."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then it has no answer either
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
        try:
            line = self._answers.get(timeout=ANSWER_S)
        except queue.Empty:
            line = ""
        if not line:
            raise BenchFailed(f"a helper gave no answer\n{self._log.read_text('utf-8')[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._answers.put(line)
        self._answers.put("")


@contextlib.contextmanager
def child(module: str, log: Path) -> Iterator[Child]:
    """Start a helper, and end it."""
    started = Child(module, log)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.communicate()


def orders() -> Iterator[dict[str, Any]]:
    """What a helper is asked, one after another."""
    for line in sys.stdin:
        yield json.loads(line)


def answer(**said: Any) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def session_cpu_s(leader: int) -> float:
    """Seconds of CPU that the live processes of a session have used."""
    return sum(ticks for _, _, session, ticks in _processes() if session == leader) / TICKS


def pss_mb(mark: str) -> float:
    """MB of every process that has this in its environment, what several share counted once."""
    total = 0
    for pid in _marked(mark):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text("utf-8").splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def kill_marked(mark: str) -> None:
    """End every process that has this in its environment."""
    for pid in _marked(mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _marked(mark: str) -> Iterator[int]:
    """Processes whose environment has `NAME=value`, also those that lead sessions of their own."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                    yield int(entry.name)


def _end(started: Running) -> None:
    started.process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        started.process.wait(15)
    for pid in [started.process.pid, *started.members()]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    started.process.wait(10)


def _processes() -> Iterator[tuple[int, str, int, int]]:
    """Pid, name, session and CPU ticks of every live process."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                head, _, rest = (entry / "stat").read_text("utf-8", errors="replace").partition("(")
                name, _, fields = rest.rpartition(") ")
                said = fields.split()
                if said[0] != "Z":
                    yield int(head), name, int(said[3]), int(said[11]) + int(said[12])
