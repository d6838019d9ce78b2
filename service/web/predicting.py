"""Decoding the images of a request and shaping what the heads say of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.arrays import FloatArray, UInt8Array
from models.errors import PolyheadError
from models.losses import THRESHOLD
from service.engine import HeadRef
from service.schemas.predictions import Prediction, Score
from service.schemas.problems import describe
from service.store.records import Resolved
from service.web.images import ImageRequest, Source, bytes_of
from service.web.parts import Parts
from service.web.problems import EveryItemFailed

DEFAULT_TOP_K = 5  # scores of a multiclass prediction; a multilabel one has all


@dataclass(frozen=True, slots=True)
class Decoded:
    """The images of one request: those that decode as one array a size, the others as errors."""

    by_size: dict[int, UInt8Array]  # by input size: (N, H, W, C), of the images at `rows`
    rows: list[int]  # index in the request of each row of them
    errors: dict[int, PolyheadError]  # by index in the request
    read: ImageRequest[Any]

    @property
    def count(self) -> int:
        return len(self.rows) + len(self.errors)


@dataclass(frozen=True, slots=True)
class Shape:
    """How the caller wants predictions."""

    top_k: int | None
    threshold: float | None


async def decode(parts: Parts, read: ImageRequest[Any], sizes: Iterable[int] = ()) -> Decoded:
    """Decode every image of a request, once for each input size; a bad one fails alone.

    Args:   sizes: pixels; none: the backbone's.
    Raises: EveryItemFailed, Overloaded.
    """
    wanted = sorted(set(sizes)) or [backbone_size(parts)]

    def pixels_of(source: Source) -> list[UInt8Array]:
        data = bytes_of(source)
        return [parts.decoder.decode(data, size).pixels for size in wanted]

    results = await parts.decoder.map(pixels_of, read.sources)
    errors = {index: result for index, result in enumerate(results) if isinstance(result, PolyheadError)}
    if len(errors) == len(results):
        raise EveryItemFailed([(read.pointer(index), error) for index, error in errors.items()])
    rows = [index for index in range(len(results)) if index not in errors]
    good = [result for result in results if not isinstance(result, PolyheadError)]
    by_size = {size: np.stack(pixels) for size, pixels in zip(wanted, zip(*good, strict=True), strict=True)}
    return Decoded(by_size, rows, errors, read)


def backbone_size(parts: Parts) -> int:
    return parts.identity.preprocessing.input_size


def size_for(parts: Parts, resolved: Resolved) -> int:
    """Pixels of the images that a version takes: a network of its own may have another size."""
    return resolved.input_size or backbone_size(parts)


def head_of(resolved: Resolved) -> HeadRef:
    return HeadRef(
        resolved.head_digest,
        resolved.head_key,
        resolved.backbone_output,
        resolved.views,
        resolved.input_size,
        alias=None if resolved.alias is None else f"{resolved.task_id}@{resolved.alias}",
        pinned=resolved.pinned,
    )


def predictions(resolved: Resolved, images: Decoded, outputs: FloatArray, shape: Shape) -> list[Prediction]:
    """One prediction or error for each image of the request, in its order.

    Args: outputs: (N, C) probabilities or (N, 1) values of the rows of `images`.
    """
    made = {
        index: _prediction(resolved, index, row, shape)
        for index, row in zip(images.rows, outputs, strict=True)
    }
    failed = {
        index: Prediction(index=index, error=describe(error, pointer=images.read.pointer(index)))
        for index, error in images.errors.items()
    }
    return [(made | failed)[index] for index in range(images.count)]


def _prediction(resolved: Resolved, index: int, row: FloatArray, shape: Shape) -> Prediction:
    match resolved.kind:
        case "regression":
            return Prediction(index=index, value=float(row[0]))
        case "multilabel":
            return _multilabel(resolved, index, row, shape)
        case "multiclass":
            return _multiclass(resolved, index, row, shape)


def _multiclass(resolved: Resolved, index: int, row: FloatArray, shape: Shape) -> Prediction:
    order = _best_first(row)
    best, score = order[0], float(row[order[0]])
    sure = shape.threshold is None or score >= shape.threshold
    return Prediction(
        index=index,
        label=resolved.labels[best] if sure else None,
        score=score,
        scores=_scores(resolved, row, order[: shape.top_k or DEFAULT_TOP_K]),
    )


def _multilabel(resolved: Resolved, index: int, row: FloatArray, shape: Shape) -> Prediction:
    own = THRESHOLD if resolved.threshold is None else resolved.threshold
    threshold = own if shape.threshold is None else shape.threshold
    order = _best_first(row)
    return Prediction(
        index=index,
        labels=[resolved.labels[place] for place in order if float(row[place]) >= threshold],
        scores=_scores(resolved, row, order[: shape.top_k]),
    )


def _best_first(row: FloatArray) -> list[int]:
    order: list[int] = np.argsort(-row, kind="stable").tolist()
    return order


def _scores(resolved: Resolved, row: FloatArray, places: Sequence[int]) -> list[Score]:
    return [Score(label=resolved.labels[place], score=float(row[place])) for place in places]
