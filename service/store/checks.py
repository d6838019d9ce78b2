"""What the store refuses to write, whoever asks."""

import math
import re
from collections.abc import Sequence

from service.errors import InvalidField
from service.store.records import Kind

MAX_LABEL_CHARACTERS = 128
MAX_TEXT_CHARACTERS = 4096
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def check_name(name: str, pointer: str = "/name") -> None:
    """Raises: InvalidField unless it is a name of a task or an alias."""
    if not NAME.fullmatch(name):
        raise InvalidField(
            f"{name[:80]!r} is no name: up to 63 of a-z, 0-9 and -, not beginning with -", pointer=pointer
        )


def check_alias_name(name: str) -> None:
    """Raises: InvalidField; a number is no alias, since `task@3` is a version."""
    check_name(name, "/alias")
    if name.isdigit():
        raise InvalidField(f"alias {name!r} would be taken for a version", pointer="/alias")


def check_label(label: str, pointer: str = "/label") -> None:
    """Raises: InvalidField unless it is non-empty text of at most 128 characters."""
    if not label.strip() or len(label) > MAX_LABEL_CHARACTERS:
        raise InvalidField(
            f"a label has 1 to {MAX_LABEL_CHARACTERS} characters that aren't all blank", pointer=pointer
        )
    check_text(label, pointer)


def check_text(text: str | None, pointer: str) -> None:
    """Raises: InvalidField for text that UTF-8 or a database can't hold."""
    if text is None:
        return
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidField("text with a NUL or a lone surrogate can't be stored", pointer=pointer)
    if len(text) > MAX_TEXT_CHARACTERS:
        raise InvalidField(f"longer than {MAX_TEXT_CHARACTERS} characters", pointer=pointer)


def check_target(kind: Kind, labels: Sequence[str] | None, value: float | None) -> None:
    """Raises: InvalidField unless `labels` and `value` are what a task of this kind is taught with."""
    if kind == "regression":
        if labels is not None:
            raise InvalidField("a regression task takes a value, no labels", pointer="/label")
        if value is not None and not math.isfinite(value):
            raise InvalidField("the value must be a finite number", pointer="/value")
        return
    if value is not None:
        raise InvalidField(f"a {kind} task takes labels, no value", pointer="/value")
    if labels is None:
        return
    if len(set(labels)) != len(labels):
        raise InvalidField("a label is given twice", pointer="/labels")
    if kind == "multiclass" and len(labels) != 1:
        raise InvalidField(f"a multiclass example has one label, not {len(labels)}", pointer="/labels")
    for label in labels:
        check_label(label)
