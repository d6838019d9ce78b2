"""Taking in the images of an upload: decoded, stored, embedded, then added in one transaction.

An image is acknowledged once its bytes and its row are durable. Its embedding is made here when the engine
has room, else by the training that needs it first.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import anyio
import anyio.to_thread
import numpy as np
import structlog

from models.errors import PolyheadError
from models.preprocess import DecodedImage, perceptual_hash
from service.errors import DeadlineExceeded, NotReady, Overloaded, StoreUnavailable
from service.labelling import check_fits
from service.store.keys import image_key
from service.store.records import AddResult, NewExample, SplitName, Task
from service.web.images import Source, bytes_of
from service.web.parts import Parts

CONCURRENT_PUTS = 16  # of one upload, to hide the latency of an object store
AT_ONCE = 32  # images of one upload where nobody predicts: enough for full batches, and soon over

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """One image of an upload and what is said of it."""

    source: Source
    filename: str | None = None
    labels: tuple[str, ...] | None = None
    value: float | None = None
    group: str | None = None
    split: SplitName | None = None
    refused: PolyheadError | None = None  # why what is said of it can't be read


@dataclass(frozen=True, slots=True)
class _Image:
    """A submitted image that decodes."""

    said: Submitted
    data: bytes
    digest: str
    decoded: DecodedImage
    perceptual_hash: int
    blob_key: str


async def take_in(parts: Parts, task: Task, submitted: Sequence[Submitted], *, now: float) -> list[AddResult]:
    """Add images to a task, one result each, in order.

    Raises: Overloaded, StoreFull, UnknownTask: nothing was added.
            StoreUnavailable: nothing that is known of; what is sent again is there once all the same.
    """
    read = [
        each
        async for some in parts.precedence.turns(submitted, AT_ONCE)
        for each in await parts.decoder.map(partial(_read, parts, task), some)
    ]
    images = [image for image in read if isinstance(image, _Image)]
    vectors = await _embed(parts, task, images)
    await _put(parts, images)
    new = [_example(image, vectors.get(image.digest)) for image in images]
    add = partial(parts.store.examples.add, task, new, backbone_digest=parts.identity.digest, now=now)
    try:
        added = await anyio.to_thread.run_sync(add)
    except StoreUnavailable:
        raise  # the rows may be there, and only the word of it lost: a sweep will tell
    except PolyheadError:
        await _delete(parts, images)
        raise
    unused = [image for image, result in zip(images, added, strict=True) if result.status != "created"]
    await _delete(parts, unused)
    results = iter(added)
    return [
        next(results) if isinstance(image, _Image) else AddResult(status=None, example_id=None, error=image)
        for image in read
    ]


def _read(parts: Parts, task: Task, said: Submitted) -> _Image:
    """Raises: InvalidField, InvalidImage."""
    if said.refused is not None:
        raise said.refused
    check_fits(task, said.labels, said.value)
    data = bytes_of(said.source)
    decoded = parts.decoder.decode(data)
    digest = hashlib.sha256(data).hexdigest()
    return _Image(said, data, digest, decoded, perceptual_hash(decoded.pixels), image_key(task, digest))


def _example(image: _Image, embedding: bytes | None) -> NewExample:
    said, decoded = image.said, image.decoded
    return NewExample(
        image_digest=image.digest,
        blob_key=image.blob_key,
        media_type=decoded.media_type,
        filename=said.filename,
        width=decoded.width,
        height=decoded.height,
        size=len(image.data),
        perceptual_hash=image.perceptual_hash,
        labels=said.labels,
        value=said.value,
        group=said.group,
        split=said.split,
        embedding=embedding,
    )


async def _embed(parts: Parts, task: Task, images: Sequence[_Image]) -> dict[str, bytes]:
    """Embeddings by digest, of images that have none yet; of some if there is no room or time for more."""
    pixels = {image.digest: image.decoded.pixels for image in images}
    get_many = partial(parts.store.embeddings.get_many, task.tenant, list(pixels), parts.identity.digest)
    known = await anyio.to_thread.run_sync(get_many)
    missing = [digest for digest in pixels if digest not in known]
    if not missing:
        return {}
    found: dict[str, bytes] = {}
    try:
        # All turns together, since each has a deadline of its own: beside predictions there are many.
        async with asyncio.timeout(parts.settings.request_deadline_s):
            async for some in parts.precedence.turns(missing, AT_ONCE):
                answer = await parts.engine.submit(
                    np.stack([pixels[digest] for digest in some]), embeddings=True
                )
                assert answer.embeddings is not None
                rows = answer.embeddings.astype("<f4", copy=False)  # (N, D)
                found |= {digest: row.tobytes() for digest, row in zip(some, rows, strict=True)}
    except (Overloaded, DeadlineExceeded, NotReady, TimeoutError) as error:
        left = len(missing) - len(found)
        log.info("embeddings left to the training", task=task.name, images=left, reason=repr(error))
    return found


async def _put(parts: Parts, images: Sequence[_Image]) -> None:
    """Make the bytes durable, all or none.

    Raises: StoreFull, StoreUnavailable.
    """
    limiter = anyio.CapacityLimiter(CONCURRENT_PUTS)
    failures = await asyncio.gather(
        *(anyio.to_thread.run_sync(_try_put, parts, image, limiter=limiter) for image in images)
    )
    reasons = [failure for failure in failures if failure is not None]
    if reasons:
        there = [image for image, failure in zip(images, failures, strict=True) if failure is None]
        await _delete(parts, there)
        raise reasons[0]


def _try_put(parts: Parts, image: _Image) -> PolyheadError | None:
    try:
        parts.store.blobs.put_new(image.blob_key, image.data)
    except PolyheadError as error:
        return error
    return None


async def _delete(parts: Parts, images: Sequence[_Image]) -> None:
    """Take back bytes that no row refers to; what can't be deleted now is only space lost."""
    limiter = anyio.CapacityLimiter(CONCURRENT_PUTS)
    await asyncio.gather(
        *(anyio.to_thread.run_sync(_try_delete, parts, image, limiter=limiter) for image in images)
    )


def _try_delete(parts: Parts, image: _Image) -> None:
    try:
        parts.store.blobs.delete(image.blob_key)
    except PolyheadError as error:
        log.warning("a blob is left over", key=image.blob_key, reason=str(error))
