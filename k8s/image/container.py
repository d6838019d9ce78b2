"""A container of the image, by crun, as the pods run it: its user, no capabilities, a read-only root."""

import json
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from k8s.image.contents import Image
from k8s.objects import Object

# What runc and Docker hide of /proc.
MASKED = ("acpi", "kcore", "keys", "latency_stats", "timer_list", "sched_debug", "scsi")
READ_ONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder of this machine."""

    source: Path
    target: str  # in the container
    read_only: bool = False


@dataclass(slots=True)
class Container:
    """Shares the network of whoever starts it."""

    image: Image
    folder: Path  # crun's: configurations and states
    mounts: Sequence[Mount]
    variables: Mapping[str, str]  # added to the image's own
    name: str = field(default_factory=lambda: f"polyhead-{uuid.uuid4().hex[:12]}")

    def run(self, *command: str, stdout: IO[bytes] | int | None = None) -> "subprocess.Popen[bytes]":
        """Start a command as process 1."""
        bundle = self.folder / self.name
        bundle.mkdir(parents=True)
        (bundle / "config.json").write_text(json.dumps(self._configuration(command)), "utf-8")
        return subprocess.Popen(
            [*self._crun(), "run", "--bundle", bundle, self.name],
            stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def exec(self, *command: str, timeout_s: float = 60) -> "subprocess.CompletedProcess[str]":
        """Run a command beside it, as the same user."""
        file = self.folder / f"{self.name}-exec.json"
        file.write_text(json.dumps(self._process(command)), "utf-8")
        return subprocess.run(
            [*self._crun(), "exec", "--process", file, self.name],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip

    def wait_until_running(self, process: "subprocess.Popen[bytes]", within_s: float = 20) -> None:
        """Raises: TimeoutError; also for one that has ended."""
        end = time.monotonic() + within_s
        while time.monotonic() < end and process.poll() is None:
            said = subprocess.run([*self._crun(), "state", self.name], capture_output=True, check=False)
            if not said.returncode and json.loads(said.stdout)["status"] == "running":
                return
            time.sleep(0.05)
        raise TimeoutError(f"{self.name} doesn't run: exit code {process.poll()}")

    def pid(self) -> int:
        """Of its process 1, on this machine. Raises: CalledProcessError: it doesn't run."""
        said = subprocess.run([*self._crun(), "state", self.name], capture_output=True, text=True, check=True)
        return int(json.loads(said.stdout)["pid"])

    def kill(self, signal: str) -> None:
        """Raises: CalledProcessError: it doesn't run."""
        subprocess.run([*self._crun(), "kill", self.name, signal], check=True, capture_output=True)

    def remove(self) -> None:
        subprocess.run([*self._crun(), "delete", "--force", self.name], check=False, capture_output=True)

    def _crun(self) -> list[str]:
        return ["crun", "--root", str(self.folder / "state"), "--cgroup-manager", "disabled"]

    def _process(self, command: Sequence[str]) -> Object:
        # As a runtime does: a name would be looked up in /etc/passwd, nothing is root.
        user, _, group = (self.image.config.get("User") or "0").partition(":")
        variables = {**self.image.environment, **self.variables}
        return {
            "terminal": False,
            "user": {"uid": int(user), "gid": int(group or 0)},
            "args": list(command),
            "env": [f"{name}={value}" for name, value in variables.items()],
            "cwd": self.image.config.get("WorkingDir") or "/",
            "capabilities": {},
            "noNewPrivileges": True,
        }

    def _configuration(self, command: Sequence[str]) -> Object:
        return {
            "ociVersion": "1.0.2",
            "root": {"path": str(self.image.root), "readonly": True},
            "hostname": "polyhead",
            "process": self._process(command),
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                _tmpfs("/dev", "nosuid", "mode=755", "size=64k"),
                _tmpfs("/dev/shm", "nosuid", "nodev", "noexec", "mode=1777", "size=64m"),  # noqa: S108 - the container's
                *(_bind(each) for each in self.mounts),
            ],
            "linux": {
                "namespaces": [{"type": each} for each in ("pid", "ipc", "uts", "mount")],
                "maskedPaths": [f"/proc/{each}" for each in MASKED],
                "readonlyPaths": [f"/proc/{each}" for each in READ_ONLY],
            },
        }


def _tmpfs(target: str, *options: str) -> Object:
    return {"destination": target, "type": "tmpfs", "source": "tmpfs", "options": list(options)}


def _bind(mount: Mount) -> Object:
    options = ["bind", "nosuid", "nodev", "ro" if mount.read_only else "rw"]
    return {"destination": mount.target, "type": "bind", "source": str(mount.source), "options": options}
