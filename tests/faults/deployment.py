"""Two API replicas and two trainers that share PostgreSQL and S3, each behind proxies of its own."""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from models.prepare import prepare_backbone
from service.settings import Settings
from tests.engines import started
from tests.proxies import Proxy, before_database, before_objects
from tests.servers import SERVE, TINY, Server, ServerDied, kill_group, start, wait_until_ready
from tests.stores import Cluster

START_S = 240.0  # a machine may be busy, and four start at once
LEASE_S = 4.0  # shorter than by default: a dead trainer's run is waited for again and again
DATABASE_DISK = "320m"  # PostgreSQL's programs, a database of some megabytes, and little room
MEMBER_DISK = "64m"  # of one replica and one trainer: their data and temporary files
# It may crash for want of room: what it has acknowledged by then must be in its log.
ON_A_SMALL_DISK = ("synchronous_commit=on", "min_wal_size=32MB", "max_wal_size=48MB")
WORKER = ("service", "worker")


@dataclass(slots=True)
class Member:
    """One of the four, which may be killed and started again."""

    name: str
    command: tuple[str, ...]
    folder: Path
    settings: dict[str, str]
    database: Proxy
    objects: Proxy
    server: Server = field(init=False)

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def pid(self) -> int:
        return self.server.process.pid

    def start(self) -> None:
        self.server = start(self.folder, command=self.command, **self.settings)

    def wait_until_ready(self) -> float:
        """Seconds that it took from here."""
        began = time.monotonic()
        if self.command == SERVE:
            wait_until_ready(self.server, within_s=START_S)
            return time.monotonic() - began
        while b"trainer_ready" not in self.server.log.read_bytes():
            if self.server.process.poll() is not None or time.monotonic() - began > START_S:
                raise ServerDied(f"{self.name} is not ready\n{self.server.tail()}")
            time.sleep(0.05)
        return time.monotonic() - began

    def kill(self) -> None:
        kill_group(self.server.process)

    def says(self, event: str, run: str) -> bool:
        """Whether its log, since its last start, tells this of a run."""
        for line in self.server.log.read_text(errors="replace").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                said = json.loads(line)
                if isinstance(said, dict) and (said.get("message"), said.get("run")) == (event, run):
                    return True
        return False


@dataclass(frozen=True, slots=True)
class Deployment:
    replicas: tuple[Member, Member]
    trainers: tuple[Member, Member]
    cluster: Cluster  # PostgreSQL and S3, for more databases
    database_url: str  # not through a proxy
    endpoint: str  # of S3, not through a proxy
    blob_url: str
    # Small ones, of PostgreSQL, the first replica and the first trainer; None: this machine allows no mount.
    database_disk: Path | None
    replica_disk: Path | None
    trainer_disk: Path | None

    @property
    def members(self) -> tuple[Member, ...]:
        return (*self.replicas, *self.trainers)

    @property
    def store(self) -> dict[str, str]:
        """The settings of a process that reaches both, not through a proxy."""
        return dict(self.cluster.environment) | {
            "database_url": self.database_url,
            "blob_url": self.blob_url,
        }

    def trainer_of(self, run: str) -> Member:
        """The last that has begun with a run and lives."""
        (trainer,) = [each for each in self.trainers if each.says("run_begins", run)]
        return trainer

    def is_ready(self) -> bool:
        """Whether every replica says so, with nothing degraded."""
        for replica in self.replicas:
            try:
                said = httpx.get(f"{replica.url}/readyz", timeout=10)
            except httpx.HTTPError:
                return False
            if said.status_code != 200 or said.json()["status"] != "ok":
                return False
        return True


@contextlib.contextmanager
def deployed(folder: Path) -> Iterator[Deployment]:
    with ExitStack() as stack:
        sizes = (DATABASE_DISK, MEMBER_DISK, MEMBER_DISK)
        disk, replica_disk, trainer_disk = (stack.enter_context(small_disk(size)) for size in sizes)
        options = () if disk is None else ON_A_SMALL_DISK
        postgresql = stack.enter_context(started("postgresql", *options, folder=disk))
        endpoint = stack.enter_context(started("s3"))
        cluster = Cluster(postgresql, endpoint)
        url, blobs = stack.enter_context(cluster.database()), cluster.blobs()
        shared = dict(cluster.environment) | {
            "blob_url": blobs, "cache_dir": str(folder / "cache"), "lease_s": str(LEASE_S), "trainers": "0",
            "OMP_NUM_THREADS": "1",  # of each of four, on a machine of two cores or so
        }  # fmt: skip

        def member(name: str, command: tuple[str, ...], disk: Path | None = None) -> Member:
            own = {} if disk is None else {"TMPDIR": str(disk), "data_dir": str(disk / "data")}
            database, through = stack.enter_context(before_database(url))
            objects, end = stack.enter_context(before_objects(endpoint))
            (folder / name).mkdir()
            settings = shared | own | {"database_url": through, "AWS_ENDPOINT_URL": end}
            made = Member(name, command, folder / name, settings, database, objects)
            made.start()
            stack.callback(made.kill)
            return made

        prepare_backbone(Settings(backbone=TINY).backbone_config, folder / "cache")  # once, for all
        first, second = member("replica-0", SERVE, replica_disk), member("replica-1", SERVE)
        one, other = member("trainer-0", WORKER, trainer_disk), member("trainer-1", WORKER)
        for each in (first, second, one, other):
            each.wait_until_ready()
        members = (first, second), (one, other)
        yield Deployment(*members, cluster, url, endpoint, blobs, disk, replica_disk, trainer_disk)


@contextlib.contextmanager
def small_disk(size: str) -> Iterator[Path | None]:
    """A tmpfs, where it can be mounted: as root with the right to."""
    folder = Path(tempfile.mkdtemp(prefix="polyhead-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=1777", "tmpfs", folder]
    mounted = os.geteuid() == 0 and subprocess.run(mount, check=False, capture_output=True).returncode == 0
    try:
        folder.chmod(0o1777)
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", folder], check=True)
        folder.rmdir()


@contextlib.contextmanager
def filled(disk: Path) -> Iterator[None]:
    """To the last byte, for the block."""
    filler = disk / "filler"
    try:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(2**20)):
                pass
        yield
    finally:
        filler.unlink()


def stop(*members: Member) -> None:
    for each in members:
        os.kill(each.pid, signal.SIGSTOP)


def wake(*members: Member) -> None:
    for each in members:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each.pid, signal.SIGCONT)
