"""A backbone, heads and jobs to make batches of, whose answers can be checked by eye."""

from collections.abc import Callable, Iterable

import numpy as np

from models.arrays import FloatArray, UInt8Array
from models.head import Kind
from models.prepared import Deferred
from service.errors import UnknownBlob
from service.inference.batching import Group, Head, HeadRef, Job
from service.inference.running import Trunk

RED, GREEN, GONE, BROKEN = (HeadRef(name, name) for name in ("red", "green", "gone", "broken"))


def mean_colour(pixels: UInt8Array) -> FloatArray:
    """(N, H, W, 3) -> (N, 3): an embedder that can be checked by eye."""
    return pixels.mean(axis=(1, 2), dtype=np.float32)


def corner(pixels: UInt8Array) -> FloatArray:
    """(N, H, W, 3) -> (N, 3): an embedder that sees flips: the pixel at the top left."""
    return pixels[:, 0, 0].astype(np.float32)


def trunk(embed: Callable[[UInt8Array], FloatArray]) -> Trunk:
    """A backbone with one stage, whose feature map is the embedding doubled."""
    give = {"embedding": embed, "stage": lambda pixels: embed(pixels) * 2}
    return Trunk(
        lambda pixels, outputs: Deferred(lambda: {name: give[name](pixels) for name in outputs}),
        frozenset(give),
    )


class Channel:
    """A head that answers one of the embedding's numbers, and counts its runs."""

    kind: Kind = "regression"
    size = 1

    def __init__(self, channel: int) -> None:
        self.channel = channel
        self.runs: list[int] = []

    def run(self, embeddings: FloatArray) -> FloatArray:
        self.runs.append(len(embeddings))
        return embeddings[:, self.channel : self.channel + 1]

    def logits(self, embeddings: FloatArray) -> FloatArray:
        return self.run(embeddings)


class Broken(Channel):
    def run(self, embeddings: FloatArray) -> FloatArray:
        raise ZeroDivisionError(str(len(embeddings)))


class Shelf:
    """The heads of these tests."""

    def __init__(self) -> None:
        self.held: dict[HeadRef, Head] = {RED: Channel(0), GREEN: Channel(1), BROKEN: Broken(0)}
        self.begun: list[HeadRef] = []
        self.late: set[HeadRef] = set()
        self.group: Group | None = None
        self.asked_together: list[tuple[HeadRef, ...]] = []

    def begin(self, refs: list[HeadRef]) -> None:
        self.begun += refs

    def are_late(self, refs: Iterable[HeadRef]) -> bool:
        return not self.late.isdisjoint(refs)

    def together(self, refs: tuple[HeadRef, ...]) -> Group | None:
        self.asked_together.append(refs)
        return self.group

    def get(self, ref: HeadRef) -> Head:
        if ref not in self.held:
            raise UnknownBlob(ref.key)
        return self.held[ref]


def job(*colours: tuple[int, int, int], heads: tuple[HeadRef, ...] = (), embeddings: bool = False) -> Job:
    pixels = np.array(colours, np.uint8).reshape(-1, 1, 1, 3).repeat(4, 1).repeat(4, 2)
    return job_of(pixels, heads, embeddings=embeddings)


def job_of(pixels: UInt8Array, heads: tuple[HeadRef, ...] = (), *, embeddings: bool = False) -> Job:
    return Job(
        pixels=pixels.tobytes(),
        shape=pixels.shape,
        heads=heads,
        embeddings=embeddings,
        queued_at=0.0,
        deadline=1e12,
    )


def photos(count: int, size: int = 4) -> UInt8Array:
    return np.random.default_rng(count).integers(0, 4, (count, size, size, 3), dtype=np.uint8)
