"""Clients that embed images one after another, and remember how each request ended."""

import io
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import httpx
import numpy as np
from PIL import Image

from tests.servers import Server


def png(seed: int = 0) -> bytes:
    """A photo of noise, 64x48."""
    noise = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


def embed(client: httpx.Client, image: bytes) -> httpx.Response:
    return client.post("/v1/embeddings", content=image, headers={"Content-Type": "image/png"})


@dataclass(frozen=True, slots=True)
class Ended:
    how: str  # the status, or the name of what httpx raised
    sent_at: float  # CLOCK_MONOTONIC seconds
    seconds: float


@dataclass(slots=True)
class Load:
    """Runs while its block does."""

    server: Server
    clients: int = 6
    requests: list[Ended] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._run, args=(seed,)) for seed in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def endings(self) -> Counter[str]:
        return Counter(each.how for each in self.requests)

    def longest_s(self) -> float:
        return max(each.seconds for each in self.requests)

    def _run(self, seed: int) -> None:
        image = png(seed)
        # A connection for each request: on one that is kept, a server that stops may close it just as the
        # next request is sent, which says nothing about that request.
        limits = httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(base_url=self.server.url, timeout=60, limits=limits) as client:
            while not self._stop.is_set():
                sent_at = time.monotonic()
                try:
                    how = str(embed(client, image).status_code)
                except httpx.HTTPError as error:
                    how = type(error).__name__
                self.requests.append(Ended(how, sent_at, time.monotonic() - sent_at))
                if not how.isdigit():
                    time.sleep(0.05)
