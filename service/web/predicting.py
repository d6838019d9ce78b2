"""Decoding the images of a request and shaping what the heads say of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np

from models.arrays import FloatArray, UInt8Array
from models.errors import PolyheadError
from models.identity import AS_IT_IS, EMBEDDING
from models.losses import THRESHOLD
from service.engine import Answer, HeadRef
from service.errors import Overloaded
from service.metrics import REJECTIONS
from service.schemas.predictions import Prediction, Score
from service.schemas.problems import describe
from service.store.records import Resolved
from service.web.embedding_cache import EmbeddingCache, Key, Looked, key_of
from service.web.images import ImageRequest, Source, bytes_of
from service.web.parts import Parts
from service.web.problems import EveryItemFailed

DEFAULT_TOP_K = 5  # scores of a multiclass prediction; a multilabel one has all


@dataclass(frozen=True, slots=True)
class Decoded:
    """The images of one request: those that decode as one array a size, the others as errors."""

    by_size: dict[int, UInt8Array]  # by input size: (N, H, W, C), of the images at `rows` but for the known
    rows: list[int]  # index in the request of each row of them
    errors: dict[int, PolyheadError]  # by index in the request
    read: ImageRequest[Any]
    looked: Looked | None = None  # None: no cache was asked

    @property
    def count(self) -> int:
        return len(self.rows) + len(self.errors)


@dataclass(frozen=True, slots=True)
class Shape:
    """How the caller wants predictions."""

    top_k: int | None
    threshold: float | None


@dataclass(frozen=True, slots=True)
class _Image:
    """One that is decoded, or known."""

    pixels: list[UInt8Array]  # (H, W, C), one a size
    key: Key | None = None  # in the cache, if there is one
    embedding: FloatArray | None = None  # (D,), where it is known


def admit(parts: Parts) -> None:
    """Refuse a request before its body is read, where it would be refused for its first image.

    Raises: Overloaded.
    """
    if parts.decoder.full or parts.engine.full:
        REJECTIONS.inc()
        raise Overloaded


async def decode(
    parts: Parts, read: ImageRequest[Any], sizes: Iterable[int] = (), *, known_to: str | None = None
) -> Decoded:
    """Decode every image of a request, once for each input size; a bad one fails alone.

    Args:   sizes: pixels; none: the backbone's.
            known_to: the tenant from whose known embeddings an image may be answered, without decoding.
    Raises: EveryItemFailed, Overloaded.
    """
    wanted = sorted(set(sizes)) or [backbone_size(parts)]

    def image_of(source: Source) -> _Image:
        data, key = bytes_of(source), None
        if known_to is not None and parts.embedding_cache is not None:
            key = key_of(known_to, data)
            embedding = parts.embedding_cache.get(key)
            if embedding is not None:
                return _Image([], key, embedding)
        return _Image([parts.decoder.decode(data, size).pixels for size in wanted], key)

    with parts.precedence.predicting():
        results = await parts.decoder.map(image_of, read.sources)
    errors = {index: result for index, result in enumerate(results) if isinstance(result, PolyheadError)}
    if len(errors) == len(results):
        raise EveryItemFailed([(read.pointer(index), error) for index, error in errors.items()])
    rows = [index for index in range(len(results)) if index not in errors]
    good = [result for result in results if not isinstance(result, PolyheadError)]
    new = [image.pixels for image in good if image.embedding is None]
    by_size = {
        size: _stacked(parts, size, [each[index] for each in new]) for index, size in enumerate(wanted)
    }
    keys = [image.key for image in good if image.key is not None]
    known = {place: image.embedding for place, image in enumerate(good) if image.embedding is not None}
    return Decoded(by_size, rows, errors, read, Looked(keys, known) if keys else None)


def _stacked(parts: Parts, size: int, images: Sequence[UInt8Array]) -> UInt8Array:
    """(N, H, W, C), of no image too; a lone one isn't copied."""
    if len(images) == 1:
        return images[0][None]
    empty = np.empty((0, size, size, parts.identity.preprocessing.channels), np.uint8)
    return np.stack(images) if images else empty


def known_to(tenant: str, versions: Iterable[Resolved]) -> str | None:
    """Whose known embeddings will do: nobody's where a version needs more of an image than its embedding."""
    plain = all(each.backbone_output == EMBEDDING and each.views == (AS_IT_IS,) for each in versions)
    return tenant if plain else None


async def ask(
    parts: Parts, images: Decoded, size: int, heads: Sequence[HeadRef] = (), *, embeddings: bool = False
) -> Answer:
    """Ask the engine about the images of one input size; the known among them pass the backbone by.

    Raises: as `Engine.submit`.
    """
    with parts.precedence.predicting():
        pixels, looked, cache = images.by_size[size], images.looked, parts.embedding_cache
        if looked is None or cache is None:
            return await parts.engine.submit(pixels, heads, embeddings=embeddings)
        known = np.stack(list(looked.known.values())) if looked.known else None  # (K, D)
        answer = Answer(None, ())
        if heads or looked.unknown:
            answer = await parts.engine.submit(
                pixels, heads, embeddings=bool(looked.unknown), known=known if heads else None
            )
        return _in_order(answer, looked, known, cache)


def _in_order(answer: Answer, looked: Looked, known: FloatArray | None, cache: EmbeddingCache) -> Answer:
    """The answer as if nothing had been known; and what was new is known from now on."""
    vectors = [each for each in (answer.embeddings, known) if each is not None]
    if answer.embeddings is not None:
        for place, embedding in zip(looked.unknown, answer.embeddings, strict=True):
            cache.put(looked.keys[place], embedding)
    order = looked.order
    return Answer(
        np.concatenate(vectors)[order],
        tuple(output if isinstance(output, PolyheadError) else output[order] for output in answer.outputs),
    )


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
    made = [_prediction(resolved, index, row, shape) for index, row in zip(images.rows, outputs, strict=True)]
    if not images.errors:
        return made
    made += [
        {"index": index, "error": describe(error, pointer=images.read.pointer(index))}
        for index, error in images.errors.items()
    ]
    return sorted(made, key=itemgetter("index"))


def _prediction(resolved: Resolved, index: int, row: FloatArray, shape: Shape) -> Prediction:
    match resolved.kind:
        case "regression":
            return {"index": index, "value": float(row[0])}
        case "multilabel":
            return _multilabel(resolved, index, row, shape)
        case "multiclass":
            return _multiclass(resolved, index, row, shape)


def _multiclass(resolved: Resolved, index: int, row: FloatArray, shape: Shape) -> Prediction:
    best = _best(resolved, row, shape.top_k or DEFAULT_TOP_K)
    label, score = best[0]["label"], best[0]["score"]
    sure = shape.threshold is None or score >= shape.threshold
    return {"index": index, "label": label if sure else None, "score": score, "scores": best}


def _multilabel(resolved: Resolved, index: int, row: FloatArray, shape: Shape) -> Prediction:
    own = THRESHOLD if resolved.threshold is None else resolved.threshold
    threshold = own if shape.threshold is None else shape.threshold
    scores = _best(resolved, row, None)
    labels = [each["label"] for each in scores if each["score"] >= threshold]
    return {"index": index, "labels": labels, "scores": scores[: shape.top_k]}


def _best(resolved: Resolved, row: FloatArray, count: int | None) -> list[Score]:
    """The best `count` of (C,), best first; None: all."""
    values: list[float] = row.tolist()
    order = (-row).argsort(kind="stable")[:count].tolist()
    return [{"label": resolved.labels[place], "score": values[place]} for place in order]
