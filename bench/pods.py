"""What a server and a trainer need of memory, each in a pod of its own: `python -m bench.pods`.

Proportional memory (PSS) counts once what the processes of a pod share. The peak is the sum over processes of
each one's largest resident size: more than they ever had at once.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.photos import LABELLED, make_photos
from bench.processes import BenchFailed, Running, free_port, running, wait_for_http

TASK = "pods"
PREDICTED = 64  # photos in one request


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    backbone: str
    photos: int
    runs: tuple[dict[str, Any], ...]


FULL = Plan(
    backbone="efficientnet_lite0",
    photos=120,
    runs=(
        {"strategy": "head"},
        {"strategy": "last_block", "epochs": 2},
        {"strategy": "finetune", "epochs": 1},
    ),
)
QUICK = Plan(backbone="tests.networks:tiny", photos=12, runs=({"strategy": "head"},))


@dataclass(frozen=True, slots=True)
class Memory:
    """Of all processes of a pod, MB."""

    now: float
    peak: float

    def __str__(self) -> str:
        return f"{self.now:.0f} | {self.peak:.0f}"


def memory(pod: Running) -> Memory:
    fields = [("smaps_rollup", "Pss:"), ("status", "VmHWM:")]
    now, peak = (sum(_kilobytes(pid, *field) for pid in pod.members()) / 1024 for field in fields)
    return Memory(now, peak)


def _kilobytes(pid: int, file: str, field: str) -> int:
    lines = Path(f"/proc/{pid}/{file}").read_text("utf-8").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(field))


MIGRATE = "from service.__main__ import migrate; migrate(); print(open('/proc/self/status').read())"


def migrate(environment: dict[str, str]) -> float:
    """Largest resident size of `polyhead migrate`, MB."""
    done = subprocess.run(
        [sys.executable, "-c", MIGRATE],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    (peak,) = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("VmHWM:")]
    return int(peak) / 1024


def measure(plan: Plan, folder: Path) -> list[str]:
    """The rows of the table."""
    port, probes = free_port(), free_port()
    common = {"POLYHEAD_DATA_DIR": str(folder / "data"), "POLYHEAD_BACKBONE": plan.backbone}
    server_settings = common | {"POLYHEAD_PORT": str(port), "POLYHEAD_TRAINERS": "0"}
    trainer_settings = common | {"POLYHEAD_METRICS_PORT": str(probes)}
    rows = [f"| `polyhead migrate` | | {migrate(common):.0f} | | |"]
    photos = make_photos(LABELLED, plan.photos, folder).open()
    images = [bytes(photos.data[a:b]) for a, b in zip(photos.offsets, photos.offsets[1:], strict=False)]
    with (
        running(["service", "serve"], folder / "server.log", server_settings) as server,
        running(["service", "worker"], folder / "trainer.log", trainer_settings) as trainer,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as client,
    ):
        wait_for_http(server, f"http://127.0.0.1:{port}/readyz")
        wait_for_http(trainer, f"http://127.0.0.1:{probes}/livez")
        rows.append(f"| idle | {memory(server)} | {memory(trainer)} |")
        _upload(client, images)
        for run in plan.runs:
            ended = client.post(f"/v1/tasks/{TASK}/runs", json=run, headers={"Prefer": "wait=600"}).json()
            if ended["state"] != "succeeded":
                raise BenchFailed(f"{run['strategy']}: {ended}")
            client.post(f"/v1/tasks/{TASK}/predict", files=_files(images[:PREDICTED])).raise_for_status()
            rows.append(f"| {run['strategy']} and predictions | {memory(server)} | {memory(trainer)} |")
    return rows


def _upload(client: httpx.Client, images: Sequence[bytes]) -> None:
    client.post("/v1/tasks", json={"name": TASK, "kind": "multiclass"}).raise_for_status()
    for label, share in (("even", images[::2]), ("odd", images[1::2])):
        said = client.post(f"/v1/tasks/{TASK}/examples", files=_files(share), data={"label": label})
        said.raise_for_status()


def _files(images: Sequence[bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    return [("file", (f"{index}.jpg", image)) for index, image in enumerate(images)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.pods", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny network, and a head alone")
    plan = QUICK if parser.parse_args().quick else FULL
    print("| after | server, MB | its peak | trainer, MB | its peak |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="polyhead-pods-") as folder:
        for row in measure(plan, Path(folder)):
            print(row)


if __name__ == "__main__":
    main()
