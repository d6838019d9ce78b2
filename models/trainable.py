"""Whether labelled examples can be learned from, and how they would be evaluated: asked before a run, too.

Imports neither a numerical library nor the strategies: the HTTP process asks it too.
"""

from collections.abc import Collection, Mapping
from typing import Literal

from models.errors import UntrainableData

FEW_PER_CLASS = 20  # labelled examples of a class, below which a test split says too little
FEW_VALUES = 100  # the same for a regression, of all examples
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


def evaluation_rule(
    kind: Literal["multiclass", "multilabel", "regression"],
    per_class: Mapping[str, int],
    labelled: int,
    splits: Collection[str | None],
) -> tuple[Literal["test", "out_of_fold"], str]:
    """Whether examples are held out for a test, or all are answered out of fold; and why.

    Once there is a test split it stays one: otherwise a new, small class would turn the test examples of
    version 1 into training data of version 2.

    Args: per_class, labelled: as in check_trainable; splits: those in use, with None for examples without.
    """
    if "test" in splits:
        return "test", "some examples are in the test split already"
    if None not in splits:
        return "out_of_fold", "every example was put in train or validation"
    if kind == "regression":
        few = labelled < FEW_VALUES
        return "out_of_fold" if few else "test", f"{labelled} examples, the bound is {FEW_VALUES}"
    label, count = min(per_class.items(), key=lambda item: item[1])
    because = f"the smallest class, {label!r}, has {count} examples, the bound is {FEW_PER_CLASS}"
    return "out_of_fold" if count < FEW_PER_CLASS else "test", because
