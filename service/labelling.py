"""What a request says of an image, as labels or a value; whether that fits the task is checked beside it."""

from service.errors import InvalidField, UnknownLabel
from service.schemas.examples import Labelling
from service.store.checks import check_target
from service.store.records import Kind, SplitName, Task

Target = tuple[tuple[str, ...] | None, float | None]  # labels, value; (None, None): not labelled

SPLITS: dict[str, SplitName] = {"train": "train", "validation": "validation", "test": "test"}


def target_of_form(kind: Kind, said: list[str]) -> Target:
    """Read the `label` parts of a form; of a regression task the one number.

    Raises: InvalidField.
    """
    if not said:
        return None, None
    if kind != "regression":
        return tuple(said), None
    if len(said) > 1:
        raise InvalidField("a regression example has one value", pointer="/label")
    try:
        return None, float(said[0])
    except ValueError:
        raise InvalidField(f"{said[0][:80]!r} is no number", pointer="/label") from None


def target_of_body(said: Labelling) -> Target:
    """Read `label`, `labels` or `value` of a JSON body.

    Raises: InvalidField: more than one of them is given.
    """
    given = [name for name in ("label", "labels", "value") if getattr(said, name) is not None]
    if len(given) > 1:
        raise InvalidField(f"give one of {' and '.join(given)}", pointer=f"/{given[1]}")
    if said.label is not None:
        return (said.label,), None
    return None if said.labels is None else tuple(said.labels), said.value


def split_of_form(said: str | None) -> SplitName | None:
    """Raises: InvalidField."""
    if said is None:
        return None
    if said not in SPLITS:
        raise InvalidField(f"a split is {', '.join(SPLITS)}, not {said[:80]!r}", pointer="/split")
    return SPLITS[said]


def check_fits(task: Task, labels: tuple[str, ...] | None, value: float | None) -> None:
    """Refuse before anything is stored what the store would refuse.

    Raises: InvalidField, UnknownLabel.
    """
    check_target(task.kind, labels, value)
    if task.closed:
        for label in labels or ():
            if label not in task.classes:
                raise UnknownLabel(label)
