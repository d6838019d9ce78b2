"""A real `polyhead serve` for tests: a subprocess in a process group of its own, always killed in the end."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

START_S = 90.0  # a cold start exports the backbone; two cores are shared
TINY = "tests.networks:tiny"
SERVE = ("service", "serve")


class ServerDied(AssertionError):
    """The server ended, or did not become ready, with what it had written."""


@dataclass(frozen=True, slots=True)
class Server:
    """A started server; `url` answers."""

    url: str
    process: "subprocess.Popen[bytes]"  # the main process, leader of the group
    data_dir: Path
    output: Path  # its standard output
    log: Path  # its standard error

    def client(self, *, timeout: float = 30.0) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=timeout)

    def processes(self) -> dict[int, str]:
        """Every live process of the group: its pid and its name as `ps -o comm` shows it."""
        return group_members(self.process.pid)

    def pid_of(self, name: str) -> int:
        """The pid of the one process with this name: polyhead-worker, polyhead-api-0, polyhead-train …"""
        (pid,) = [pid for pid, comm in self.processes().items() if comm == name]
        return pid

    def wait_for(self, name: str, *, other_than: int | None = None, within_s: float = 20.0) -> int:
        """Wait until a process with this name is there (again) and return its pid."""
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            found = [pid for pid, comm in self.processes().items() if comm == name and pid != other_than]
            if found:
                return found[0]
            time.sleep(0.02)
        raise ServerDied(f"no process {name} within {within_s} s\n{self.tail()}")

    def remaining(self, *, within_s: float = 5.0) -> dict[int, str]:
        """Processes that are still there a moment after the main one has ended."""
        end = time.monotonic() + within_s
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(0.05)
        return left

    def stop(self, *, within_s: float = 30.0) -> int:
        """Send SIGTERM to the main process alone and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)

    def tail(self, size: int = 4000) -> str:
        written = [path.read_text(errors="replace") for path in (self.output, self.log) if path.exists()]
        return "\n".join(written)[-size:]


@contextlib.contextmanager
def serving(
    folder: Path,
    *,
    backbone: str = TINY,
    command: tuple[str, ...] = SERVE,
    cwd: Path | None = None,
    **environment: str,
) -> Iterator[Server]:
    """Start `polyhead serve`, wait until it is ready, and leave no process behind.

    Args:   folder: holds the data and the logs; a second start in the same folder finds the same data.
            command: after `python -m`.
            cwd: where it stands; another checkout, with PYTHONPATH, runs that one's code.
            environment: settings by their names without the prefix, `max_batch_size="4"`; names in capitals
            are taken as they are.
    Raises: ServerDied.
    """
    server = start(folder, backbone=backbone, command=command, cwd=cwd, **environment)
    try:
        wait_until_ready(server)
        yield server
    finally:
        kill_group(server.process)


def start(
    folder: Path,
    *,
    backbone: str = TINY,
    command: tuple[str, ...] = SERVE,
    cwd: Path | None = None,
    **environment: str,
) -> Server:
    """Start the command without waiting; the caller must `kill_group`."""
    port = free_port()
    data_dir = folder / "data"
    output, log = folder / f"{port}.out", folder / f"{port}.log"
    settings = {"port": str(port), "data_dir": str(data_dir), "backbone": backbone} | environment
    with output.open("wb") as out, log.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=cwd,
            env=clean_environment() | {variable(name): value for name, value in settings.items()},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    return Server(f"http://127.0.0.1:{port}", process, data_dir, output, log)


def wait_until_ready(server: Server, *, within_s: float = START_S) -> None:
    end = time.monotonic() + within_s
    while b"Polyhead is ready" not in server.output.read_bytes():
        code = server.process.poll()
        if code is not None:
            raise ServerDied(f"the server ended with code {code}\n{server.tail()}")
        if time.monotonic() > end:
            raise ServerDied(f"not ready within {within_s} s\n{server.tail()}")
        time.sleep(0.05)


def clean_environment() -> dict[str, str]:
    """The environment without the settings of whoever runs the tests."""
    dropped = ("POLYHEAD_", "PROMETHEUS_", "LIT_")
    return {name: value for name, value in os.environ.items() if not name.startswith(dropped)}


def variable(name: str) -> str:
    return name if name.isupper() else f"POLYHEAD_{name.upper()}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def group_members(leader: int) -> dict[int, str]:
    """Live processes (no zombies) of the session that `leader` started, with their names."""
    members = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            head, _, rest = (entry / "stat").read_text().partition("(")
            comm, _, fields = rest.rpartition(") ")
            state, _parent, _group, session = fields.split()[:4]
            if int(session) == leader and state != "Z":
                members[int(head)] = comm
    return members


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """End every process of the session, whatever state it is in."""
    for pid in [process.pid, *group_members(process.pid)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait(10)
