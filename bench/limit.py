"""The limit: decode, backbone, head in a bare loop with the same threads, and no HTTP and no queue.

A batch is decoded on all threads, then goes through the backbone on all threads. Decoding the next batch
meanwhile was no faster on two idle cores and slower on busy ones (docs/benchmarks/log.md).
"""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from bench.photos import OpenPhotos, Photos
from bench.processes import answer, orders
from models.arrays import UInt8Array
from models.head_session import HeadSession
from models.identity import BackboneConfig
from models.prepare import prepare_backbone
from models.preprocess import decode_image
from models.runtime import open_runtime

MAX_PIXELS = 50_000_000


class BareLoop:
    """Images in, labels out, as fast as these cores can."""

    def __init__(self, *, backbone: str, cache: str, head: str, threads: int, batch: int) -> None:
        prepared = prepare_backbone(BackboneConfig(name=backbone), Path(cache))
        self._preprocessing = prepared.identity.preprocessing
        self._runtime = open_runtime(prepared)
        self._head = HeadSession(Path(head).read_bytes(), prepared.identity.digest)
        self._threads = ThreadPoolExecutor(threads)
        self._batch = batch

    def stream(self, photos: OpenPhotos, first: int, count: int, seconds: float) -> list[str]:
        """Labels of as many photos as there is time for, at full speed."""
        began = time.perf_counter()
        labels: list[str] = []
        for start in range(first, first + count, self._batch):
            if time.perf_counter() - began > seconds:
                break
            batch = [photos[index] for index in range(start, min(start + self._batch, first + count))]
            labels += self._answer(np.stack(list(self._threads.map(self._pixels, batch))))
        return labels

    def one(self, photo: bytes) -> str:
        return self._answer(self._pixels(photo)[None])[0]

    def _pixels(self, photo: bytes) -> UInt8Array:
        return decode_image(photo, self._preprocessing, max_pixels=MAX_PIXELS).pixels

    def _answer(self, pixels: UInt8Array) -> list[str]:
        probabilities = self._head.run(self._runtime.run(pixels)["embedding"])  # (B, C)
        return [self._head.labels[best] for best in probabilities.argmax(axis=1)]


def embed(config: BackboneConfig, cache: Path, photos: OpenPhotos, count: int) -> Any:
    """(count, D) float32 embeddings of the first photos, and the backbone's identity."""
    prepared = prepare_backbone(config, cache)
    runtime = open_runtime(prepared)
    preprocessing = prepared.identity.preprocessing
    pixels = [decode_image(photos[i], preprocessing, max_pixels=MAX_PIXELS).pixels for i in range(count)]
    return runtime.run(np.stack(pixels))["embedding"], prepared.identity


def main() -> None:
    asked = orders()
    loop = BareLoop(**next(asked))
    answer(ready=True)
    for said in asked:
        photos = Photos(Path(said["photos"]), 0, "").open()
        first, count = said["first"], said["count"]
        cpu, began = time.process_time(), time.perf_counter()
        latencies: list[float] = []
        if said["lone"]:
            labels = []
            for index in range(first, first + count):
                start = time.perf_counter()
                labels.append(loop.one(photos[index]))
                latencies.append((time.perf_counter() - start) * 1000)
        else:
            labels = loop.stream(photos, first, count, said["seconds"])
        seconds = time.perf_counter() - began
        answer(seconds=seconds, labels=labels, latencies_ms=latencies, cpu_s=time.process_time() - cpu)


if __name__ == "__main__":
    main()
