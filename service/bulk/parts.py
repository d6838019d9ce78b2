"""Parts of a source, one for each file of embeddings. Pure.

Where a part ends is decided by the names in it, and its own name stands for what it holds. So the same images
give the same parts, and a few new ones change only the parts that they fall into: what is there is not
embedded again.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from service.bulk.source import Found

PREFIX, SUFFIX = "embeddings-", ".parquet"


@dataclass(frozen=True, slots=True)
class Part:
    name: str  # of its file: a digest of the paths, sizes and times of its images
    paths: tuple[str, ...]

    def to_json(self) -> str:
        """ASCII, whatever a file system has in its names."""
        return json.dumps([self.name, self.paths])

    @classmethod
    def from_json(cls, text: str) -> "Part":
        name, paths = json.loads(text)
        return cls(name, tuple(paths))


def cut(found: Iterable[Found], images: int) -> Iterator[Part]:
    """Cut a listing into parts.

    Args:    images: of a part on average; twice as many at most.
    Source:  content-defined chunking, as of LBFS (Muthitacharoen et al. 2001), over names instead of bytes.
    """
    least = images // 2
    held: list[Found] = []
    for each in found:
        held.append(each)
        # Beyond the least, the end comes after `images - least` on average.
        ends = len(held) > least and _number(each.path) % (images - least) == 0
        if ends or len(held) >= 2 * images:
            yield _part(held)
            held = []
    if held:
        yield _part(held)


def _part(held: list[Found]) -> Part:
    digest = hashlib.sha256()
    for each in held:
        digest.update(_bytes(f"{each.path}\0{each.size}\0{each.modified}\n"))
    return Part(f"{PREFIX}{digest.hexdigest()[:24]}{SUFFIX}", tuple(each.path for each in held))


def _number(path: str) -> int:
    return int.from_bytes(hashlib.sha256(_bytes(path)).digest()[:8])


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # a file system's names may be no UTF-8
