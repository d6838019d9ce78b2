"""Which rung of the ladder to start from, which to try after it, and why not the others.

Two questions decide: how much labelled data, and how far its domain is from the pretraining data. The answer
is where to start; what is kept is decided by validation. Imports neither torch nor numpy: the HTTP process
asks it, before anything is trained.
"""

import importlib.util
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from models.identity import BackboneIdentity
from models.strategies.options import Augmentation
from models.tails import Tails

Size = Literal["small", "medium", "large"]
DomainKind = Literal["similar", "distant"]  # as `models.domain` says it
Rung = Literal["head", "stages", "last_block", "lora", "finetune"]

RUNGS: tuple[Rung, ...] = ("head", "stages", "last_block", "lora", "finetune")  # cheapest first
SIZES: tuple[Size, ...] = ("small", "medium", "large")
# Labelled examples at which a size begins: hundreds are small, thousands medium, tens of thousands large.
MEDIUM, LARGE = 1_000, 10_000
# The same of the middle class: ten thousand examples of a thousand classes teach each of them little.
MEDIUM_PER_CLASS, LARGE_PER_CLASS = 20, 100
LATER_BLOCKS = 2  # what "the later blocks" are to begin with


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What a server can train beside heads."""

    blocks: tuple[int, ...]  # sizes of the tails that its backbone offers; () for none
    no_tail: str = ""  # why there is none
    lora: bool = True  # peft is installed
    stages: bool = True  # the backbone serves stages


def means_of(
    tails: Tails, identity: BackboneIdentity, find: Callable[[str], object] = importlib.util.find_spec
) -> Means:
    """What a server can train. Args: tails: that its backbone offers; find: looks for a package."""
    return Means(
        blocks=tuple(each.blocks for each in tails.offered),
        no_tail=tails.reason,
        lora=find("peft") is not None,
        stages=identity.pooled > 0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What is advised for a task."""

    name: str  # "small_similar"
    because: str  # the rule that fired, and what it says
    size: Size
    start: Rung  # where the answer is expected; cheaper ones are what it has to beat
    order: tuple[Rung, ...]  # to be tried, cheapest first; `start` is among them
    not_tried: dict[Rung, str]  # the others, each with the reason
    augmentation: Augmentation
    batch_norm: Literal["eval", "train"]
    blocks: int | None  # to thaw to begin with; None: all of them


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One cell of the taught table."""

    says: str
    start: Rung
    order: tuple[Rung, ...]
    augmentation: Augmentation
    batch_norm: Literal["eval", "train"]
    blocks: int | None


_PARTIAL: tuple[Rung, ...] = ("head", "stages", "last_block", "lora")
_ALL: tuple[Rung, ...] = ("head", "stages", "last_block", "finetune")
_ROWS: dict[tuple[Size, DomainKind], _Row] = {
    ("small", "similar"): _Row(
        says="freeze the backbone and train the head only; anything more has to win on validation",
        start="head", order=_PARTIAL, augmentation="light", batch_norm="eval", blocks=1,
    ),
    ("small", "distant"): _Row(
        says="fine-tune in part: thaw the later blocks, with heavy augmentation",
        start="last_block", order=_PARTIAL, augmentation="heavy", batch_norm="eval", blocks=LATER_BLOCKS,
    ),
    ("medium", "similar"): _Row(
        says="freeze first, then thaw the last block if validation gains by it",
        start="head", order=_PARTIAL, augmentation="light", batch_norm="eval", blocks=1,
    ),
    ("medium", "distant"): _Row(
        says="fine-tune in part and validate carefully: thaw the later blocks, with heavy augmentation",
        start="last_block", order=RUNGS, augmentation="heavy", batch_norm="eval", blocks=LATER_BLOCKS,
    ),
    ("large", "similar"): _Row(
        says="fine-tune all blocks at discriminative rates, with light augmentation",
        start="finetune", order=_ALL, augmentation="light", batch_norm="train", blocks=None,
    ),
    ("large", "distant"): _Row(
        says="fine-tune all blocks at discriminative rates; training from scratch, which may pay where data "
        "is huge and very distant, is outside this service",
        start="finetune", order=_ALL, augmentation="heavy", batch_norm="train", blocks=None,
    ),
}  # fmt: skip
_TOO_LITTLE = {
    "small": "on hundreds of examples, full fine-tuning tends to forget more than it learns",
    "medium": "on thousands of examples of a similar domain, the earlier blocks have little to learn",
}


def size_of(examples: int, per_class: Collection[int] = ()) -> tuple[Size, str]:
    """How much data this is, and by which count: the total's size or the middle class's, whichever is less.

    Args: examples: labelled; per_class: those of each class, () for a regression.
    """
    by_total = _size(examples, MEDIUM, LARGE)
    if not per_class:
        return by_total, f"{examples:,} examples"
    middle = sorted(per_class)[(len(per_class) - 1) // 2]
    by_class = _size(middle, MEDIUM_PER_CLASS, LARGE_PER_CLASS)
    if SIZES.index(by_class) < SIZES.index(by_total):
        return by_class, f"{examples:,} examples, but {middle:,} of the middle class"
    return by_total, f"{examples:,} examples"


def choose_rule(examples: int, per_class: Collection[int], domain: DomainKind, means: Means) -> Rule:
    """What the table says of a task, as far as the server has the means for it.

    Args:    examples: labelled, at least 0.
             per_class: those of each class; of a multilabel task, those that have the label; () for a
             regression.
             domain: as `models.domain` measured it, or as the user said.
    """
    size, counted = size_of(examples, per_class)
    row = _ROWS[size, domain]
    missing = _missing(means)
    wanted = [rung for rung in row.order if rung not in missing]
    if "last_block" in missing and row is not _ROWS["small", "similar"]:
        wanted = [rung for rung in ("head", "stages", "finetune") if rung not in missing]
    start = row.start if row.start in wanted else _nearest(size, wanted)
    instead = "" if start == row.start else f"; here it starts from {start}, since {missing[row.start]}"
    return Rule(
        name=f"{size}_{domain}",
        because=f"{size} data ({counted}) of a {domain} domain: {row.says}{instead}",
        size=size,
        start=start,
        order=tuple(wanted),
        not_tried={rung: missing.get(rung) or _why_not(rung, size) for rung in RUNGS if rung not in wanted},
        augmentation=row.augmentation,
        batch_norm=row.batch_norm,
        blocks=_thawed(row.blocks, means.blocks),
    )


def _size(count: int, medium: int, large: int) -> Size:
    return "large" if count >= large else "medium" if count >= medium else "small"


def _missing(means: Means) -> dict[Rung, str]:
    """The rungs that this server can't train, each with the reason."""
    missing: dict[Rung, str] = {} if means.stages else {"stages": "the backbone serves no stages"}
    if not means.blocks:
        reason = f"the backbone has no tail of its own to train: {means.no_tail or 'it offers none'}"
        return missing | {"last_block": reason, "lora": reason}
    if not means.lora:
        missing["lora"] = "it needs the package peft, which isn't installed on the server"
    return missing


def _nearest(size: Size, wanted: Sequence[Rung]) -> Rung:
    """Where to start where the table's own rung can't be had."""
    return "head" if size == "small" or "finetune" not in wanted else "finetune"


def _why_not(rung: Rung, size: Size) -> str:
    if rung == "finetune":
        return _TOO_LITTLE[size]
    return "with much data, every block may train: factors of a low rank have less to gain"


def _thawed(wanted: int | None, offered: Iterable[int]) -> int | None:
    """As many blocks as wanted, or the next fewer that can be split off; the fewest if all are more."""
    if wanted is None:
        return None
    counts = sorted(offered)
    return max((count for count in counts if count <= wanted), default=counts[0] if counts else None)
