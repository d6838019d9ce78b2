"""What an actor does: holds one backbone, and makes one file of embeddings after the other.

A part never leaves its actor: what it holds is one batch and the next one, decoded, and the part's own
embeddings (5 MB for a thousand images of the default backbone). Nothing but names and counts goes through
Ray's object store.
"""

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from models.arrays import UInt8Array
from models.errors import BackboneError, InvalidImage, PolyheadError
from models.identity import EMBEDDING, BackboneIdentity
from models.prepare import check_reference, prepare_backbone
from models.preprocess import decode_image
from models.runtime import open_runtime
from service.bulk.destination import Destination
from service.bulk.parts import Part
from service.bulk.source import Source, UnreadableFile
from service.bulk.work import Work
from service.process import import_from_working_folder

AHEAD = 1  # batches that are read and decoded while one is embedded

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What became of a file."""

    path: str
    sha256: str | None = None  # hex; None: its bytes can't be had
    pixels: UInt8Array | None = None  # (H, W, C); None: it has an error
    error: str | None = None


class PartEmbedder:
    """Raises: BackboneError: this machine's backbone is another one, or can't be had."""

    def __init__(self, work: Work) -> None:
        import_from_working_folder()
        prepared = prepare_backbone(work.backbone, work.cache_dir)
        self._identity = prepared.identity
        if prepared.identity.digest != work.backbone_digest:
            raise BackboneError(
                f"backbone {prepared.identity.name}: its digest is {prepared.identity.digest} on this "
                f"machine, and {work.backbone_digest} where the command was given"
            )
        self._runtime = open_runtime(prepared)
        check_reference(self._runtime, prepared)
        self._work = work
        self._source = Source(work.source)
        self._destination = Destination(work.destination)
        self._pool = ThreadPoolExecutor(work.decode_threads, thread_name_prefix="decode")

    def __call__(self, row: Row) -> Row:
        """Make the file of one part.

        Args:    row: {"part": its JSON}.
        Returns: {"name", "images", "unreadable", "failed"}; failed: why there is no file, or "".
        """
        part = Part.from_json(row["part"])
        try:
            table = self.embed(part.paths)
            self._destination.put(part.name, to_parquet(table))
        except PolyheadError as error:
            return {"name": part.name, "images": 0, "unreadable": 0, "failed": str(error)}
        unreadable = table.num_rows - table["error"].null_count
        return {"name": part.name, "images": table.num_rows, "unreadable": unreadable, "failed": ""}

    def embed(self, paths: Sequence[str]) -> Any:
        """Embed files, one row each, in order.

        Returns: a `pyarrow.Table` of path, sha256, embedding (D,) float32, error.
        Raises:  SourceUnavailable, BackboneError.
        """
        matrix = np.zeros((len(paths), self._identity.embedding_dim), np.float32)  # (N, D)
        done: list[Read] = []
        for batch in self._batches(paths):
            good = [index for index, read in enumerate(batch, len(done)) if read.pixels is not None]
            if good:
                pixels = np.stack([read.pixels for read in batch if read.pixels is not None])
                matrix[good] = self._runtime.run(pixels)[EMBEDDING]
            done += [Read(path=read.path, sha256=read.sha256, error=read.error) for read in batch]
        return to_table(done, matrix, schema(self._identity, self._work.source))

    def _batches(self, paths: Sequence[str]) -> Iterator[list[Read]]:
        """Files, read and decoded, in order, a bounded number at a time. Raises: SourceUnavailable."""
        size = self._work.max_batch_size
        waiting: deque[list[Future[Read]]] = deque()
        for start in range(0, len(paths), size):
            waiting.append([self._pool.submit(self._read, path) for path in paths[start : start + size]])
            if len(waiting) > AHEAD:
                yield [future.result() for future in waiting.popleft()]
        for batch in waiting:
            yield [future.result() for future in batch]

    def _read(self, path: str) -> Read:
        """Raises: SourceUnavailable."""
        try:
            data = self._source.read(path, most_bytes=self._work.max_image_bytes)
        except UnreadableFile as error:
            return Read(path=path, error=str(error))
        digest = hashlib.sha256(data).hexdigest()
        try:
            image = decode_image(data, self._identity.preprocessing, max_pixels=self._work.max_image_pixels)
        except InvalidImage as error:
            return Read(path=path, sha256=digest, error=str(error))
        return Read(path=path, sha256=digest, pixels=image.pixels)


def schema(identity: BackboneIdentity, source: str) -> Any:
    """Of every file."""
    return pa.schema(
        [
            pa.field("path", pa.string(), nullable=False),  # relative to the source
            pa.field("sha256", pa.string()),  # of the file's bytes, hex
            pa.field("embedding", pa.list_(pa.float32(), identity.embedding_dim)),
            pa.field("error", pa.string()),  # null, or why there is no embedding
        ],
        metadata={
            "polyhead.backbone": identity.name,
            "polyhead.backbone_digest": identity.digest,
            "polyhead.precision": identity.precision,
            "polyhead.source": source,
        },
    )


def to_table(done: Sequence[Read], matrix: Any, columns: Any) -> Any:
    """Args: matrix: (N, D) float32; the rows of files with an error count for nothing."""
    bad = pa.array([read.error is not None for read in done], pa.bool_())
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1], mask=bad)
    return pa.Table.from_arrays(
        [
            # A file system's names may be no UTF-8, and Parquet's are.
            pa.array([read.path.encode("utf-8", "backslashreplace").decode() for read in done], pa.string()),
            pa.array([read.sha256 for read in done], pa.string()),
            vectors,
            pa.array([read.error for read in done], pa.string()),
        ],
        schema=columns,
    )


def to_parquet(table: Any) -> bytes:
    buffer = pa.BufferOutputStream()
    parquet.write_table(table, buffer, compression="zstd", use_dictionary=False)
    return bytes(buffer.getvalue())
