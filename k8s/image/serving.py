"""The image at work: `polyhead serve` as a pod of `overlays/embedded` runs it, with no network but loopback.

Started by `k8s.image.check` in a network namespace of its own; reads {"config", "root", "folder"} on standard
input, and answers a line of JSON for each check: its name, and what is wrong.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from k8s.image.container import Container, Mount
from k8s.image.contents import Image
from k8s.tools import ROOT
from models.reference import IMAGES, recorded_embeddings
from models.reference import __file__ as reference
from service.solar_cells import write_photos

URL = "http://127.0.0.1:8000"
READY_S = 120.0  # two cores that may be shared
STOP_S = 50.0  # the grace period less preStop: docs/kubernetes.md
COSINE = 0.999  # models.prepare.REQUIRED_COSINE: to what torch gave at fp32
WRITABLE = {"/tmp", "/var/lib/polyhead", "/var/cache/polyhead", "/dev/shm"}  # noqa: S108 - the pods', and shared memory

# In every folder that there is, whoever's it is: prints where it could make a file.
TRY_TO_WRITE = """
import os
for folder, folders, _ in os.walk("/"):
    if folder == "/":
        folders[:] = [each for each in folders if each not in ("proc", "sys")]
    path = os.path.join(folder, ".tried")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except OSError:
        continue
    os.unlink(path)
    print(folder)
"""


class NotServing(Exception):
    """Why nothing more can be checked."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A container that serves, with what a pod gives it."""

    image: Image
    server: Container
    process: "subprocess.Popen[bytes]"
    http: httpx.Client  # without a key
    key: str  # of scope admin
    photos: Path
    log: Path


def serve(image: Image, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Start it as the manifests do, put each check to it, and stop it."""
    key = f"ph_{secrets.token_hex(13)}_{secrets.token_hex(32)}"
    mounts = _mounts(image, folder, key)
    photos, log = folder / "photos", folder / "server.log"
    write_photos(photos, 60)
    yield (
        "its export is copied to the pod's cache folder",
        _init(image, folder, mounts, "cp", "--recursive", "/var/cache/polyhead/.", "/cache"),
    )
    served = [each for each in mounts if each.target != "/cache"]
    served.append(Mount(folder / "cache", "/var/cache/polyhead"))
    yield "it makes its first key", _init(
        image, folder, served, *image.config["Entrypoint"],
        *["key", "create", "--name", "first", "--scope", "admin", "--from", "/etc/polyhead/keys/first-key"],
    )  # fmt: skip
    server = Container(image, folder / "crun", served, VARIABLES)
    with log.open("wb") as output:
        process = server.run(*image.config["Entrypoint"], *image.config["Cmd"], stdout=output)
    pod = Pod(image, server, process, httpx.Client(base_url=URL, timeout=60), key, photos, log)
    try:
        for name, check in CHECKS.items():
            try:
                yield name, list(check(pod))
            except (httpx.HTTPError, subprocess.SubprocessError, OSError, LookupError, ValueError) as error:
                yield name, [f"{type(error).__name__}: {error}"]
            except NotServing as error:
                yield name, [str(error)]
                return
    finally:
        server.remove()
        process.wait(10)


VARIABLES = {"POLYHEAD_KEY_PEPPERS_FILE": "/etc/polyhead/keys/peppers", "POLYHEAD_DRAIN_S": "30"}


def _mounts(image: Image, folder: Path, key: str) -> list[Mount]:
    """The volumes of the pod: tmp, data and cache are the user's, the secrets its group's to read."""
    user, group = (int(each) for each in image.config["User"].split(":"))
    for name in ("tmp", "data", "cache"):
        (folder / name).mkdir()
        os.chown(folder / name, user, group)
    keys = folder / "keys"
    keys.mkdir(mode=0o750)
    for name, text in (("peppers", secrets.token_hex(32)), ("first-key", key)):
        (keys / name).write_text(text, "utf-8")
        (keys / name).chmod(0o440)
    for path in (keys, *keys.iterdir()):
        os.chown(path, 0, group)
    return [
        Mount(folder / "tmp", "/tmp"),  # noqa: S108 - the container's
        Mount(folder / "data", "/var/lib/polyhead"),
        Mount(folder / "cache", "/cache"),
        Mount(keys, "/etc/polyhead/keys", read_only=True),
    ]


def _init(image: Image, folder: Path, mounts: list[Mount], *command: str) -> list[str]:
    container = Container(image, folder / "crun", mounts, VARIABLES)
    process = container.run(*command, stdout=subprocess.PIPE)
    try:
        said, _ = process.communicate(timeout=60)
    finally:
        container.remove()
    return [f"exit code {process.returncode}: {said.decode(errors='replace')}"] if process.returncode else []


def _runs(pod: Pod) -> list[str]:
    try:
        pod.server.wait_until_running(pod.process)
    except TimeoutError as error:
        raise NotServing(f"{error}: {pod.log.read_text('utf-8')[-2000:]}") from None
    return []


def _unhealthy_before(pod: Pod) -> Iterator[str]:
    if pod.server.exec(*pod.image.config["Healthcheck"]["Test"][1:]).returncode == 0:
        yield "it says healthy, and nothing serves yet"


def _ready(pod: Pod) -> list[str]:
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        if pod.process.poll() is not None:
            raise NotServing(f"exit code {pod.process.returncode}: {pod.log.read_text('utf-8')[-2000:]}")
        try:
            if pod.http.get("/readyz").status_code == httpx.codes.OK:
                return []
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise NotServing(f"not within {READY_S:.0f} s: {pod.log.read_text('utf-8')[-2000:]}")


def _alive(pod: Pod) -> Iterator[str]:
    for path in ("/livez", "/metrics", "/docs"):
        answer = pod.http.get(path)
        if answer.status_code != httpx.codes.OK:
            yield f"{path}: {answer.status_code} {answer.text[:200]}"


def _healthy(pod: Pod) -> Iterator[str]:
    done = pod.server.exec(*pod.image.config["Healthcheck"]["Test"][1:])
    if done.returncode:
        yield f"exit code {done.returncode}: {done.stderr}"


def _processes(pod: Pod) -> Iterator[str]:
    """Of the whole container, as the kernel has them."""
    user, group = pod.image.config["User"].split(":")
    namespace = Path(f"/proc/{pod.server.pid()}/ns/pid").readlink()
    count = 0
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "ns" / "pid").readlink() != namespace:
                continue
            lines = (path / "status").read_text("utf-8").splitlines()
        except OSError:  # it has ended
            continue
        count += 1
        status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
        name = " ".join(status["Name"])
        if status["Uid"] != [user] * 4 or status["Gid"] != [group] * 4:
            yield f"{name} runs as {status['Uid'][0]}:{status['Gid'][0]}"
        if int(status["CapEff"][0], 16) or int(status["CapBnd"][0], 16) or status["NoNewPrivs"] != ["1"]:
            yield f"{name} has capabilities, or may get privileges"
    if count < 3:
        yield f"there are {count} processes only"


def _read_only(pod: Pod) -> Iterator[str]:
    mounts = Path(f"/proc/{pod.server.pid()}/mountinfo").read_text("utf-8").splitlines()
    (options,) = [line.split()[5] for line in mounts if line.split()[4] == "/"]
    if "ro" not in options.split(","):
        yield f"the root is mounted {options}"
    done = pod.server.exec("python", "-c", TRY_TO_WRITE, timeout_s=300)
    folders = done.stdout.splitlines()
    if done.returncode or not WRITABLE.issubset(folders):
        yield f"exit code {done.returncode}, it could write to {folders}: {done.stderr}"
    for each in folders:
        if not any(each == folder or each.startswith(f"{folder}/") for folder in WRITABLE):
            yield f"it could write to {each}"


def _no_network(pod: Pod) -> Iterator[str]:
    lines = Path(f"/proc/{pod.server.pid()}/net/dev").read_text("utf-8").splitlines()[2:]
    devices = [line.partition(":")[0].strip() for line in lines]
    if devices != ["lo"]:
        yield f"it has {', '.join(devices)}: this proves no start without a network"


def _guarded(pod: Pod) -> Iterator[str]:
    answer = pod.http.get("/v1/tasks")
    if answer.status_code != httpx.codes.UNAUTHORIZED:
        yield f"without a key /v1/tasks answers {answer.status_code}"


def _embeds(pod: Pod) -> Iterator[str]:
    """What torch gave for the same images when they were recorded."""
    expected = recorded_embeddings("efficientnet_lite0")  # (N, D)
    headers = {"Authorization": f"Bearer {pod.key}"}
    for name, row in zip(IMAGES, expected, strict=True):
        data = Path(reference).with_name(name).read_bytes()
        answer = pod.http.post(
            "/v1/embeddings", content=data, timeout=60,
            headers=headers | {"Content-Type": f"image/{name.rpartition('.')[2].replace('jpg', 'jpeg')}"},
        )  # fmt: skip
        if answer.status_code != httpx.codes.OK:
            yield f"{name}: {answer.status_code} {answer.text[:300]}"
            continue
        got = np.array(answer.json()["data"][0]["embedding"])
        cosine = float(got @ row / np.linalg.norm(got) / np.linalg.norm(row))
        if not cosine >= COSINE:
            yield f"{name}: its embedding's cosine to the recorded one is {cosine:.5f}"


def _learns(pod: Pod) -> Iterator[str]:
    """The commands of docs/kubernetes.md, with the checkout's polyhead."""
    defective = min((pod.photos / "held-back").glob("defective-*"))
    yield from _polyhead(pod, "push", pod.photos / "labelled", "--task", "cells", "--train")
    yield from _polyhead(pod, "predict", defective, "--task", "cells")


def _polyhead(pod: Pod, *arguments: str | Path) -> Iterator[str]:
    done = subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        env=os.environ | {"POLYHEAD_API_KEY": pod.key}, cwd=ROOT,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    if done.returncode:
        yield f"polyhead {arguments[0]}: exit code {done.returncode}: {done.stdout}{done.stderr}"


def _stops(pod: Pod) -> Iterator[str]:
    pod.server.kill("TERM")
    try:
        code = pod.process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        yield f"it still runs {STOP_S:.0f} s after SIGTERM"
        return
    if code:
        yield f"exit code {code}: {pod.log.read_text('utf-8')[-1000:]}"


CHECKS: Mapping[str, Callable[[Pod], Iterable[str]]] = {
    "it starts as process 1": _runs,
    "its healthcheck fails while nothing serves": _unhealthy_before,
    "it is ready, without a network": _ready,
    "it has no network but loopback": _no_network,
    "its processes are all its user's, without capabilities": _processes,
    "/livez, /metrics and /docs answer": _alive,
    "its healthcheck passes": _healthy,
    "it asks for a key": _guarded,
    "its embeddings are the recorded ones": _embeds,
    "it learns a task from photos, and predicts": _learns,
    "it can write to its folders alone, the root is read-only": _read_only,
    "SIGTERM ends it with exit code 0": _stops,
}


def main() -> int:
    told = json.load(sys.stdin)
    folder = Path(told["folder"])
    folder.mkdir(parents=True)
    try:
        for name, problems in serve(Image(told["config"], Path(told["root"])), folder):
            sys.stdout.write(json.dumps([name, problems]) + "\n")
            sys.stdout.flush()
    finally:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
