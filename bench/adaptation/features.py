"""What a backbone makes of a collection, computed once and kept: embeddings, feature maps. Imports torch."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bench.adaptation.images import Collection
from models.arrays import HalfArray, IntArray, UInt8Array
from models.backbone import Backbone, build_backbone
from models.dataset import Dataset
from models.identity import BackboneConfig
from models.prepare import prepare_backbone
from models.prepared import PreparedBackbone, Runtime
from models.preprocess import decode_image, perceptual_hash
from models.runtime import open_runtime
from models.tail import Split, split_at
from models.views import fill_feature_maps

BATCH = 16  # images of one pass of the trunk
MAX_PIXELS = 50_000_000  # of a photo, as the service has it

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Features:
    """A collection as one backbone sees it."""

    collection: Collection
    prepared: PreparedBackbone
    work: Path  # folder of what is kept
    tell: Tell

    @classmethod
    def of(cls, collection: Collection, config: BackboneConfig, work: Path, tell: Tell) -> "Features":
        """Raises: BackboneError."""
        prepared = prepare_backbone(config, work / "backbones")
        return cls(collection=collection, prepared=prepared, work=work, tell=tell)

    @cached_property
    def backbone(self) -> Backbone:
        """By torch: what is trained."""
        return build_backbone(self.prepared.config)

    @cached_property
    def runtime(self) -> Runtime:
        return open_runtime(self.prepared)

    @cached_property
    def pixels(self) -> UInt8Array:
        """(N, H, W, C): all of them, decoded; at 128 px 2,624 photos are 129 MB."""
        return np.stack([self._decoded(path) for path in self.collection.paths])

    @cached_property
    def dataset(self) -> Dataset:
        """All photos, without splits."""
        embeddings, hashes = self._embedded
        count = len(self.collection)
        return Dataset(
            kind="multiclass",
            labels=self.collection.labels,
            ids=tuple(path.name for path in self.collection.paths),
            embeddings=embeddings,
            targets=self.collection.targets,
            groups=(None,) * count,
            hashes=hashes,
            splits=(None,) * count,
            split_by_user=(False,) * count,
        )

    def split(self, blocks: int) -> Split:
        """Raises: InvalidOption, NoTail."""
        return split_at(self.backbone, blocks)

    def maps(self, split: Split, views: tuple[str, ...]) -> HalfArray:
        """(N, V, *stage shape) float16, memory-mapped."""
        path = self._kept(f"{split.stage}-{'+'.join(views).replace(' ', '-')}.npy")
        if not path.exists():
            shape = (len(self.collection), len(views), *split.shape)
            partial = path.with_suffix(f".{os.getpid()}")  # another program may make it too
            out: Any = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float16, shape=shape)
            self.tell(f"feature maps of {self.collection.name} at {split.stage}: {out.nbytes:,} B")
            fill_feature_maps(self.runtime, self._batches(), split.stage, views, out)
            out.flush()
            partial.replace(path)
        found: HalfArray = np.load(path, mmap_mode="r", allow_pickle=False)
        return found

    @cached_property
    def _embedded(self) -> Any:
        """(N, D) float32 and (N,) uint64, kept."""
        path = self._kept("embeddings.npz")
        if not path.exists():
            self.tell(f"embedding {self.collection.name}: {len(self.collection)} photos")
            batches = list(self._embedding())
            partial = path.with_suffix(f".{os.getpid()}.npz")
            vectors, hashes = zip(*batches, strict=True)
            np.savez(partial, embeddings=np.concatenate(vectors), hashes=np.concatenate(hashes))
            partial.replace(path)
        with np.load(path, allow_pickle=False) as said:
            return said["embeddings"], said["hashes"]

    def _embedding(self) -> Iterator[tuple[Any, Any]]:
        for pixels in self._batches():
            hashes = np.array([perceptual_hash(image) for image in pixels], dtype=np.uint64)
            yield self.runtime.run(pixels)["embedding"], hashes

    def _batches(self) -> Iterator[UInt8Array]:
        paths = self.collection.paths
        for start in range(0, len(paths), BATCH):
            yield np.stack([self._decoded(path) for path in paths[start : start + BATCH]])

    def _decoded(self, path: Path) -> UInt8Array:
        preprocessing = self.prepared.identity.preprocessing
        return decode_image(path.read_bytes(), preprocessing, max_pixels=MAX_PIXELS).pixels

    def _kept(self, name: str) -> Path:
        digests = f"{self.prepared.identity.digest[:12]}-{self.collection.digest[:12]}"
        folder = self.work / "features" / f"{self.collection.name}-{digests}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name


def rows_of(maps: HalfArray, rows: IntArray) -> HalfArray:
    """Of some photos, in memory: a training reads them many times."""
    found: HalfArray = np.ascontiguousarray(maps[rows])
    return found
