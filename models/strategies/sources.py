"""Where training takes its inputs from: embeddings, cached feature maps, or pixels. Imports torch."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from models.arrays import FloatArray, HalfArray, IntArray, UInt8Array
from models.identity import Preprocessing
from models.strategies.options import Augmentation
from models.views import flipped, views_of


class FeatureMaps(Protocol):
    """(N, V, *stage shape) float16: a memory-mapped array as a rule, or `models.views.RecomputedMaps`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows_and_views: tuple[IntArray, IntArray], /) -> HalfArray: ...


class EmbeddingSource:
    """Embeddings as the backbone gave them; there is nothing to augment."""

    passes = 1

    def __init__(self, embeddings: FloatArray, *, device: str = "cpu") -> None:
        self._embeddings = torch.from_numpy(embeddings).to(device)  # (N, D)

    def training(self, rows: IntArray, rng: np.random.Generator) -> Tensor:
        del rng
        return self._embeddings[torch.from_numpy(rows)]

    def answering(self, rows: IntArray, number: int) -> Tensor:
        del number
        return self._embeddings[torch.from_numpy(rows)]


class FeatureSource:
    """Feature maps of a trunk, of every image and view; a training batch takes a view of each at random."""

    def __init__(self, maps: FeatureMaps, *, average_flips: bool, device: str = "cpu") -> None:
        self._maps = maps
        self._device = device
        self.passes = maps.shape[1] if average_flips else 1

    def training(self, rows: IntArray, rng: np.random.Generator) -> Tensor:
        views = rng.integers(0, self._maps.shape[1], len(rows))
        return self._batch(rows, views)

    def answering(self, rows: IntArray, number: int) -> Tensor:
        return self._batch(rows, np.full(len(rows), number))

    def _batch(self, rows: IntArray, views: IntArray) -> Tensor:
        maps = torch.from_numpy(np.ascontiguousarray(self._maps[rows, views]))
        return channels_last(maps.to(self._device).float())


class PixelSource:
    """Images at the backbone's input size, augmented one by one and normalised."""

    def __init__(
        self,
        pixels: UInt8Array,
        preprocessing: Preprocessing,
        augmentation: Augmentation,
        *,
        average_flips: bool,
        device: str = "cpu",
    ) -> None:
        self._pixels = pixels  # (N, H, W, C) uint8, possibly memory-mapped
        self._device = device
        self._augment = augmenter(augmentation, preprocessing)
        self._views = views_of(augmentation) if average_flips else views_of("none")
        self._mean = torch.tensor(preprocessing.mean).view(1, -1, 1, 1) * 255
        self._std = torch.tensor(preprocessing.std).view(1, -1, 1, 1) * 255
        self.passes = len(self._views)

    def training(self, rows: IntArray, rng: np.random.Generator) -> Tensor:
        images = torch.from_numpy(np.ascontiguousarray(self._pixels[rows])).permute(0, 3, 1, 2)
        if self._augment is not None:
            # torchvision draws from torch's global generator, and once for a whole batch
            torch.manual_seed(int(rng.integers(2**63)))
            images = torch.stack([self._augment(image) for image in images])
        return self._normalised(images)

    def answering(self, rows: IntArray, number: int) -> Tensor:
        pixels = flipped(self._pixels[rows], self._views[number])
        return self._normalised(torch.from_numpy(pixels).permute(0, 3, 1, 2))

    def _normalised(self, images: Tensor) -> Tensor:
        return channels_last(((images.float() - self._mean) / self._std).to(self._device))


def channels_last(inputs: Tensor) -> Tensor:
    """The same values in the memory order that convolutions train faster in: 1.35 times, for two blocks."""
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.ndim == 4 else inputs


def augmenter(augmentation: Augmentation, preprocessing: Preprocessing) -> v2.Transform | None:
    """(C, H, W) uint8 -> the same; None: nothing is changed."""
    if augmentation == "none":
        return None
    side, smooth = preprocessing.input_size, InterpolationMode.BILINEAR
    flip = v2.RandomHorizontalFlip()
    if augmentation == "light":
        return v2.Compose(
            [v2.RandomResizedCrop(side, scale=(0.8, 1.0), interpolation=smooth, antialias=True), flip]
        )
    colours = [v2.ColorJitter(0.3, 0.3, 0.2)] if preprocessing.channels == 3 else [v2.ColorJitter(0.3, 0.3)]
    return v2.Compose(
        [
            v2.RandomResizedCrop(side, scale=(0.6, 1.0), interpolation=smooth, antialias=True),
            flip,
            v2.RandomVerticalFlip(),
            v2.RandomRotation(15, interpolation=smooth),
            *colours,
            v2.RandomErasing(p=0.25, scale=(0.02, 0.1)),
        ]
    )
