"""The options of a strategy as a request gives them: checked before a run is queued, defaults filled in."""

from dataclasses import asdict, fields
from typing import Any

from models.errors import InvalidOption
from models.strategies.options import OPTIONS
from models.tails import Tails, TailShape, views_within
from service.errors import InvalidField
from service.schemas.runs import CreateRun
from service.store.records import Task

COMMON = frozenset({"strategy", "publish", "dry_run", "force"})  # fields of a run that are no option


def canonical_options(body: CreateRun) -> dict[str, Any]:
    """Every option of the strategy: equal requests give equal ones, however much they spell out.

    Raises: InvalidField: one that the strategy doesn't have. InvalidOption: a value that can't be used.
    """
    kind = OPTIONS.get(body.strategy)
    known = {"seed"} if kind is None else {field.name for field in fields(kind)}
    given = {name: getattr(body, name) for name in body.model_fields_set - COMMON}
    for name in sorted(given):
        if name not in known:
            raise InvalidField(f"strategy {body.strategy} has no option {name}", pointer=f"/{name}")
    if given.get("average_flips"):
        raise InvalidOption("average_flips", "is not served yet: leave it false")
    return {"seed": body.seed} if kind is None else asdict(kind(**given))


def tail_of(options: dict[str, Any], tails: Tails, labelled: int, scratch_bytes: int) -> TailShape | None:
    """The tail that a run would train, None where it would train a head alone.

    Raises: InvalidOption: too many blocks, or too many bytes of feature maps. NoTail.
    """
    if "blocks" not in options:
        return None
    tail = tails.of(options["blocks"])
    views_within(tail, labelled, ("as it is",), scratch_bytes)
    return tail


def trainable_parameters(task: Task, embedding_dim: int, tail: TailShape | None) -> int:
    outputs = len(task.classes) or 1
    return outputs * (embedding_dim + 1) + (tail.parameters if tail else 0)
