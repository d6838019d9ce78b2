"""Rows of the same backbone in bf16, where the CPU computes in it: a server of its own, another digest."""

import sys
from pathlib import Path

import numpy as np

from bench.contenders import Contenders, HttpServer, second_polyhead
from bench.heads import publish_tasks
from bench.limit import embed
from bench.photos import JPEG_640
from bench.rows import Row, ratios
from models.arrays import FloatArray
from models.errors import BackboneError
from models.identity import BackboneConfig

ROUNDS = 3


def precision(run: Contenders, cache: Path) -> list[Row]:
    """Saturated, in turns with fp32 and with plain LitServe; nothing where the CPU has no bf16."""
    scale, folder = run.scale, run.folder / "data-bf16"
    pool = run.polyhead.pools[JPEG_640.name].photos
    try:
        config = BackboneConfig(name=scale.backbone, precision="bf16")
        embeddings, identity = embed(config, cache, pool.open(), len(run.sample))
    except BackboneError as error:
        print(f"bf16 is left out: {error}", file=sys.stderr)
        return []
    publish_tasks(folder, 1, embeddings, identity)
    speed: dict[str, list[float]] = {"fp32": [], "bf16": [], "plain LitServe": []}
    with second_polyhead(run, folder, cache, name="bf16", precision="bf16") as half:
        with run.plain.running.frozen():
            half.load(scale.lone)
        for _ in range(min(ROUNDS, scale.rounds)):
            with run.plain.running.frozen():
                speed["fp32"].append(_saturated(run.polyhead, run))
                speed["bf16"].append(_saturated(half, run))
            speed["plain LitServe"].append(_saturated(run.plain, run))
    alike = _cosines(embeddings, run.sample)
    return [
        Row(
            name="bf16: throughput against fp32",
            unit="images/s",
            values={name: speed[name] for name in ("fp32", "bf16")},
            compared="bf16 / fp32",
            figures=ratios(speed["bf16"], speed["fp32"]),
            notes=[
                (
                    f"a server of its own with `POLYHEAD_PRECISION=bf16`; embeddings against fp32: cosine "
                    f"{alike.mean():.4f} in the mean of {len(alike)} photos, {alike.min():.4f} at least"
                )
            ],
        ),
        Row(
            name="bf16: throughput against plain LitServe in fp32",
            unit="images/s",
            values={name: speed[name] for name in ("bf16", "plain LitServe")},
            compared="bf16 / plain LitServe",
            figures=ratios(speed["bf16"], speed["plain LitServe"]),
        ),
    ]


def _saturated(server: HttpServer, run: Contenders) -> float:
    scale = run.scale
    return server.load(scale.images, connections=scale.connections, seconds=scale.seconds).per_second


def _cosines(these: FloatArray, those: FloatArray) -> FloatArray:
    """(N,) of the rows of (N, D) and (N, D)."""
    lengths = np.linalg.norm(these, axis=1) * np.linalg.norm(those, axis=1)
    cosines: FloatArray = (these * those).sum(axis=1) / lengths
    return cosines
