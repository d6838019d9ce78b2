"""The options of a strategy as a request gives them: checked before a run is queued, defaults filled in."""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from models.identity import AS_IT_IS, LARGEST, POOLED, BackboneIdentity
from models.strategies import STRATEGIES
from models.strategies.options import HEADS, kind_of
from models.tails import Tails, TailShape, check_pixels, check_rank, kept_within, stages_shape
from service.errors import InvalidField, StrategyNotAvailable
from service.schemas.runs import CreateRun
from service.store.records import Task

COMMON = frozenset({"strategy", "publish", "dry_run", "force"})  # fields of a run that are no option


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a deployment can train."""

    identity: BackboneIdentity
    scratch_bytes: int


def canonical_options(body: CreateRun) -> dict[str, Any]:
    """Every option of the strategy: equal requests give equal ones, however much they spell out.

    Raises: InvalidField: one that the strategy, or its solver, doesn't have. InvalidOption: a value that
            can't be used.
    """
    return complete_options(
        body.strategy, {name: getattr(body, name) for name in body.model_fields_set - COMMON}
    )


def complete_options(strategy: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given, and the defaults of the others. Raises: as `canonical_options`."""
    kind = kind_of(strategy, given)
    known = {field.name for field in fields(kind)}
    for name in sorted(given):
        if name not in known:
            solver = next((f" with solver {name}" for name, each in HEADS.items() if each is kind), "")
            raise InvalidField(f"strategy {strategy}{solver} has no option {name}", pointer=f"/{name}")
    return asdict(kind(**given))


def tail_of(
    strategy: str, options: dict[str, Any], tails: Tails, *, labelled: int, bounds: Bounds
) -> TailShape | None:
    """The tail that a run would train, None for a head of the embedding or a whole network.

    Args:   labelled: examples.
    Raises: InvalidOption: too many blocks, too high a rank, too many bytes for the scratch. NoTail.
    """
    if strategy != "stages" and "blocks" not in options:
        return None
    tail = stages_shape(bounds.identity) if strategy == "stages" else tails.of(options["blocks"])
    if "rank" in options:
        identity = bounds.identity
        check_rank(options["rank"], tail.rank_parameters, identity.total_parameters, name=identity.name)
    pixel_bytes = bounds.identity.preprocessing.pixel_bytes
    kept_within(tail, labelled, (AS_IT_IS,), bounds.scratch_bytes, pixel_bytes=pixel_bytes)
    return tail


def check_network(options: dict[str, Any], *, labelled: int, bounds: Bounds) -> None:
    """Raises: InvalidOption: too many bytes for the scratch. InvalidField: the network is no file's size."""
    preprocessing = bounds.identity.preprocessing
    size = options["input_size"] or preprocessing.input_size
    check_pixels(labelled, bounds.scratch_bytes, replace(preprocessing, input_size=size))
    if 4 * bounds.identity.total_parameters > LARGEST:
        raise InvalidField(
            "strategy finetune gives a task a file of its own: for this backbone it would be above 2 GB",
            pointer="/strategy",
        )


def trainable_parameters(
    task: Task, identity: BackboneIdentity, tail: TailShape | None, options: dict[str, Any]
) -> int:
    outputs, hidden = len(task.classes) or 1, options.get("hidden")
    if hidden is not None:
        return int(hidden * (identity.embedding_dim + 1) + outputs * (hidden + 1))
    width = tail.shape[0] if tail is not None and tail.stage == POOLED else identity.embedding_dim
    head = outputs * (width + 1)
    if "unfreeze_every" in options:  # finetune: all of it
        return head + identity.total_parameters
    if tail is None:
        return head
    return head + (options["rank"] * tail.rank_parameters if "rank" in options else tail.parameters)


def check_strategy(strategy: str) -> None:
    """Raises: InvalidField: there is no such strategy. StrategyNotAvailable."""
    if strategy not in STRATEGIES:
        raise InvalidField(
            f"there is no strategy {strategy!r}, only {', '.join(STRATEGIES)}", pointer="/strategy"
        )
    check_installed(strategy)


def check_installed(strategy: str, find: Callable[[str], object] = importlib.util.find_spec) -> None:
    """Raises: StrategyNotAvailable: what it needs is an extra that isn't installed."""
    package = {"lora": "peft"}.get(strategy)
    if package is not None and find(package) is None:
        raise StrategyNotAvailable(strategy, package=package)
