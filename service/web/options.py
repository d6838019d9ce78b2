"""The options of a strategy as a request gives them: checked before a run is queued, defaults filled in."""

import importlib.util
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

from models.errors import InvalidOption
from models.identity import AS_IT_IS
from models.strategies.options import HEADS, kind_of
from models.tails import Tails, TailShape, check_rank, views_within
from service.errors import InvalidField
from service.schemas.runs import CreateRun
from service.store.records import Task

COMMON = frozenset({"strategy", "publish", "dry_run", "force"})  # fields of a run that are no option


def canonical_options(body: CreateRun) -> dict[str, Any]:
    """Every option of the strategy: equal requests give equal ones, however much they spell out.

    Raises: InvalidField: one that the strategy, or its solver, doesn't have. InvalidOption: a value that
            can't be used.
    """
    given = {name: getattr(body, name) for name in body.model_fields_set - COMMON}
    kind = kind_of(body.strategy, given)
    known = {field.name for field in fields(kind)}
    for name in sorted(given):
        if name not in known:
            solver = next((f" with solver {name}" for name, each in HEADS.items() if each is kind), "")
            raise InvalidField(f"strategy {body.strategy}{solver} has no option {name}", pointer=f"/{name}")
    if given.get("average_flips"):
        raise InvalidOption("average_flips", "is not served yet: leave it false")
    return asdict(kind(**given))


def tail_of(
    options: dict[str, Any], tails: Tails, *, labelled: int, total_parameters: int, scratch_bytes: int
) -> TailShape | None:
    """The tail that a run would train, None where it would train a head alone.

    Args:   labelled: examples; total_parameters: of the backbone.
    Raises: InvalidOption: too many blocks, too high a rank, too many bytes of feature maps. NoTail.
    """
    if "blocks" not in options:
        return None
    tail = tails.of(options["blocks"])
    if "rank" in options:
        check_rank(options["rank"], tail.rank_parameters, total_parameters)
    views_within(tail, labelled, (AS_IT_IS,), scratch_bytes)
    return tail


def trainable_parameters(
    task: Task, embedding_dim: int, tail: TailShape | None, options: dict[str, Any]
) -> int:
    outputs, hidden = len(task.classes) or 1, options.get("hidden")
    if hidden is not None:
        return int(hidden * (embedding_dim + 1) + outputs * (hidden + 1))
    head = outputs * (embedding_dim + 1)
    if tail is None:
        return head
    return head + (options["rank"] * tail.rank_parameters if "rank" in options else tail.parameters)


def check_installed(strategy: str, find: Callable[[str], object] = importlib.util.find_spec) -> None:
    """Raises: InvalidField: what the strategy needs is an extra that isn't installed."""
    package = {"lora": "peft"}.get(strategy)
    if package is not None and find(package) is None:
        raise InvalidField(
            f"strategy {strategy} needs the package {package} on the server: "
            f"pip install 'polyhead[{strategy}]'",
            pointer="/strategy",
        )
