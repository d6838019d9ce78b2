"""`make bench`: every row of the goals' speed part, in one run, side by side."""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import platformdirs

from bench import report
from bench.beside import beside
from bench.contenders import Contenders, check_answers, started
from bench.evictions import evictions
from bench.many_tasks import fan_out, memory, spread
from bench.neighbours import Neighbours
from bench.overload import overload
from bench.peers.rows import peers
from bench.photos import JPEG_12MPX, JPEG_224, JPEG_640, LABELLED, PNG_640, Photos, make_photos
from bench.precision import ROUNDS as PRECISION_ROUNDS
from bench.precision import precision
from bench.processes import BenchFailed
from bench.repeats import repeats
from bench.rows import Row
from bench.scale import FULL, QUICK, Scale
from bench.serving import lone_request, throughput
from bench.shapes import ROUNDS, SHAPES, shapes
from bench.starts import starts
from bench.training import training

DOCS = Path(__file__).resolve().parents[1] / "docs" / "benchmarks"
CHECKED = 32  # photos on which the contenders must agree
GROUPS = (
    "throughput", "lone", "memory", "spread", "evictions", "fan-out", "shapes", "repeats", "precision",
    "overload", "beside", "training", "starts", "peers",
)  # fmt: skip
# No time, or processes of their own that aren't counted as ours.
NOT_ASKED = ("memory", "evictions", "repeats", "precision", "training", "starts", "peers")


def main() -> int:
    said = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # through every `finally`: no server is left behind
    scale = QUICK if said.quick else FULL
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    where = report.machine(scale=scale.name, backbone=scale.backbone, date=now)
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="polyhead-bench-"))
    try:
        rows, agreement = measure(scale, said.only or GROUPS, folder, said.cache)
    except BenchFailed as failure:
        print(f"The benchmark says nothing: {failure}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    where = replace(where, minutes=(time.monotonic() - began) / 60)
    report.write(rows, where, agreement, said.out)
    print(report.table(rows))
    try:
        from bench.plots import draw  # noqa: PLC0415  # matplotlib is an extra
    except ImportError:
        print("No plots: pip install 'polyhead[bench]'", file=sys.stderr)
    else:
        draw(rows, said.out)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="everything at a tiny size; its figures mean nothing"
    )
    parser.add_argument("--only", action="append", choices=GROUPS, help="this group of rows; may be repeated")
    parser.add_argument("--out", type=Path, help="folder of results.json, results.md and plots")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(platformdirs.user_cache_dir("polyhead-bench")),
        help="folder of photos",
    )
    said = parser.parse_args()
    said.out = said.out or (DOCS.parents[1] / "build" / "bench" if said.quick else DOCS)
    return said


def measure(
    scale: Scale, groups: list[str] | tuple[str, ...], folder: Path, cache: Path
) -> tuple[list[Row], dict[str, float]]:
    """Start the contenders, check that they agree, and take the groups in turn."""
    tell("making photos")
    pools = {photos.path.name.rsplit("-", 2)[0]: photos for photos in make_pools(scale, cache / "photos")}
    tell("starting the contenders")
    with started(scale, pools, folder, cache / "backbones") as run:
        agreement = check_answers(run, min(CHECKED, scale.images))
        tell(f"same top-1: {agreement}")
        rows: list[Row] = []
        for group in GROUPS:  # memory before the groups that load every head
            if group in groups:
                tell(group)
                beside = Neighbours(run.cpu_s)
                new = measures(run, cache / "backbones")[group]()
                others = None if group in NOT_ASKED else beside.share()
                rows += [replace(row, others=others) for row in new]
        return rows, agreement


def measures(run: Contenders, cache: Path) -> dict[str, Callable[[], list[Row]]]:
    return {
        "throughput": lambda: throughput(run),
        "lone": lambda: lone_request(run),
        "memory": lambda: memory(run),
        "spread": lambda: spread(run),
        "evictions": lambda: evictions(run, cache),
        "fan-out": lambda: fan_out(run),
        "shapes": lambda: shapes(run),
        "repeats": lambda: repeats(run, cache),
        "precision": lambda: precision(run, cache),
        "overload": lambda: overload(run),
        "beside": lambda: beside(run),
        "training": lambda: training(run),
        "starts": lambda: starts(run, cache),
        "peers": lambda: peers(run, cache.parent),
    }


def make_pools(scale: Scale, folder: Path) -> list[Photos]:
    """As many photos of each kind as one server may be sent in a whole run."""
    ways = 1 + 2 * (len(scale.tasks) - 1)
    of_shape = min(ROUNDS, scale.rounds) * scale.shape_images
    usual = of_shape * sum(kind is JPEG_640 for _, kind in SHAPES.values())
    usual += scale.images * (scale.rounds + ways * scale.task_rounds) + CHECKED + 16
    usual += scale.rounds * scale.lone * (1 + len(scale.fan_outs))
    usual += scale.rounds * scale.images  # of `repeats`, to the polyhead without a cache
    usual += min(PRECISION_ROUNDS, scale.rounds) * scale.images
    usual += scale.floods * (2 * scale.images + scale.lone)
    usual += 2 * scale.peers * (scale.images + scale.peer_tasks[1])
    usual += scale.taught * (2 * scale.images + scale.uploaded)
    counts = {
        JPEG_640: usual,
        JPEG_224: of_shape,
        PNG_640: of_shape,
        JPEG_12MPX: min(ROUNDS, scale.rounds) * scale.large_images,
        LABELLED: scale.trainings * (scale.labelled + scale.added),
    }
    return [make_photos(kind, count, folder) for kind, count in counts.items()]


def tell(text: str) -> None:
    print(f"[{datetime.now(UTC):%H:%M:%S}] {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
