"""Which tails a backbone offers, as recorded beside its graph: requests are held against it without torch."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.errors import InvalidOption, NoTail
from models.identity import POOLED, BackboneIdentity, Preprocessing

FILE = "tails.json"
SHARE = 0.01  # of the backbone's parameters, which low-rank factors stay under


@dataclass(frozen=True, slots=True, kw_only=True)
class TailShape:
    """What a tail of the last `blocks` blocks would be."""

    blocks: int
    names: tuple[str, ...]  # of the blocks, earliest first
    stage: str  # the backbone's output that it consumes
    shape: tuple[int, ...]  # of one image's feature map
    parameters: int
    rank_parameters: int  # of low-rank factors on its linear and pointwise layers, for each rank

    def map_bytes(self, examples: int) -> int:
        """Of the feature maps of one view of each, as float16."""
        return examples * 2 * math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tails:
    """Those of one backbone."""

    backbone: str  # its name
    offered: tuple[TailShape, ...]
    why_not: dict[int, str]  # by the number of blocks that can't be split off
    reason: str = ""  # why there is none at all

    def of(self, blocks: int) -> TailShape:
        """Raises: InvalidOption: not that many blocks. NoTail: there is no tail, or none there."""
        found = next((each for each in self.offered if each.blocks == blocks), None)
        if found is not None:
            return found
        if blocks in self.why_not:
            raise NoTail(name=self.backbone, reason=self.why_not[blocks])
        if not self.offered:
            raise NoTail(name=self.backbone, reason=self.reason)
        most = max([*self.why_not, *(each.blocks for each in self.offered)])
        raise InvalidOption("blocks", f"must be between 1 and {most} for backbone {self.backbone}")

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Tails":
        said: dict[str, Any] = json.loads(text)
        offered = tuple(
            TailShape(**each | {"names": tuple(each["names"]), "shape": tuple(each["shape"])})
            for each in said["offered"]
        )
        why_not = {int(blocks): why for blocks, why in said["why_not"].items()}
        return cls(**said | {"offered": offered, "why_not": why_not})


def stages_shape(identity: BackboneIdentity) -> TailShape:
    """What strategy `stages` consumes: a tail of no block. Raises: NoTail: no stage is served."""
    if not identity.pooled:
        raise NoTail(name=identity.name, reason="no output of a stage is served")
    return TailShape(
        blocks=0, names=(), stage=POOLED, shape=(identity.pooled,), parameters=0, rank_parameters=0
    )


def check_rank(
    rank: int, rank_parameters: int, total_parameters: int, *, name: str = "of this server"
) -> None:
    """Low-rank factors stay under 1 % of the backbone.

    Args:   rank_parameters: what each rank costs; total_parameters, name: of the backbone.
    Raises: NoTail: there is no layer to adapt. InvalidOption: the rank is too high; names the largest.
    """
    if not rank_parameters:
        raise NoTail(name=name, reason="its tail has no linear or pointwise layer")
    largest = (math.ceil(SHARE * total_parameters) - 1) // rank_parameters
    if largest < 1:
        raise InvalidOption("blocks", "is too many: even rank 1 would train 1 % of the parameters or more")
    if rank > largest:
        raise InvalidOption(
            "rank", f"must be at most {largest}: more would train 1 % of the backbone's parameters or more"
        )


def read_tails(backbone_file: Path) -> Tails:
    """Which tails a prepared backbone offers. Args: backbone_file: backbone.onnx in its cache."""
    return Tails.from_json(backbone_file.with_name(FILE).read_text())


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a training's scratch holds of a trunk's feature maps."""

    views: tuple[str, ...]  # that it trains on, the first ones of those wanted
    recomputed: bool  # the scratch holds pixels, and the trunk runs whenever they are read
    bytes: int


def kept_within(
    tail: TailShape, examples: int, views: Sequence[str], limit: int, *, pixel_bytes: int
) -> Kept:
    """As many of the views as fit into `limit` bytes; where not even one does, the pixels.

    Args:   pixel_bytes: of one image.
    Raises: InvalidOption: nor do those.
    """
    one, pixels = tail.map_bytes(examples), pixel_bytes * examples
    if one <= limit:
        fitting = tuple(views[: limit // max(1, one)])
        return Kept(views=fitting, recomputed=False, bytes=one * len(fitting))
    if pixels <= limit:
        return Kept(views=tuple(views), recomputed=True, bytes=pixels)
    raise InvalidOption(
        "blocks",
        f"of {tail.blocks} needs {one:,} bytes of feature maps for {examples} examples, or {pixels:,} of "
        f"pixels, more than the {limit:,} that POLYHEAD_SCRATCH_BYTES allows",
    )


def check_pixels(examples: int, limit: int, preprocessing: Preprocessing) -> None:
    """Raises: InvalidOption: the pixels of all examples are more than `limit` bytes."""
    needed = examples * preprocessing.pixel_bytes
    if needed > limit:
        raise InvalidOption(
            "input_size",
            f"of {preprocessing.input_size} needs {needed:,} bytes for the pixels of {examples} examples, "
            f"more than the {limit:,} that POLYHEAD_SCRATCH_BYTES allows",
        )
