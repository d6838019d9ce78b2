"""Whether labelled examples can be learned from, asked before anything is queued.

Imports neither a numerical library nor the strategies: the HTTP process asks it too.
"""

from collections.abc import Mapping
from typing import Literal

from models.errors import UntrainableData

MIN_REGRESSION_EXAMPLES = 4
NAMED = 10  # classes listed in a message; the others are counted


def check_trainable(
    kind: Literal["multiclass", "multilabel", "regression"],
    per_class: Mapping[str, int],
    labelled: int,
    min_examples_per_class: int,
) -> None:
    """Refuse a training that can't succeed, saying what to add.

    Args:   per_class: labelled examples of each class, classes without any included; of a multilabel
            task, the examples that have the label.
            labelled: all labelled examples.
    Raises: UntrainableData.
    """
    if labelled == 0:
        raise UntrainableData("the task has no labelled examples: add some")
    if kind == "regression":
        if labelled < MIN_REGRESSION_EXAMPLES:
            raise UntrainableData(
                f"the task has {labelled} examples with a value and needs {MIN_REGRESSION_EXAMPLES}: add more"
            )
        return
    if kind == "multiclass" and len(per_class) < 2:
        raise UntrainableData(
            f"the task has {len(per_class)} class and needs two: add labelled examples of another class"
        )
    if not per_class:
        raise UntrainableData("the task has no classes: add labelled examples")
    _check_counts(per_class, min_examples_per_class, "labelled examples")
    if kind == "multilabel":
        without = {label: labelled - count for label, count in per_class.items()}
        _check_counts(without, min_examples_per_class, "labelled examples without that label")


def _check_counts(counts: Mapping[str, int], required: int, what: str) -> None:
    short = [f"{label!r} has {count}" for label, count in counts.items() if count < required]
    if short:
        more = f" and {len(short) - NAMED} more classes" if len(short) > NAMED else ""
        raise UntrainableData(
            f"every class needs at least {required} {what}: {', '.join(short[:NAMED])}{more}; "
            "add examples, or remove the class"
        )
