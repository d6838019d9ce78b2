"""Pages of lists: a cursor is the id or number of the last row seen."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from service.errors import InvalidField
from service.store.ids import is_id
from service.store.records import Page

Item = TypeVar("Item")


def page_of(items: Sequence[Item], limit: int, cursor: Callable[[Item], str | int]) -> Page[Item]:
    """The page that `limit + 1` fetched items make: the one too many says that there are more."""
    data = list(items[:limit])
    return Page(data=data, next=str(cursor(data[-1])) if len(items) > limit else None)


def number_after(after: str | None) -> int | None:
    """Raises: InvalidField for a cursor that was never given out."""
    if after is None:
        return None
    if not after.isdecimal() or len(after) > 18:
        raise InvalidField("no such cursor", pointer="/after")
    return int(after)


def id_after(after: str | None, prefix: str) -> str | None:
    """Raises: InvalidField for a cursor that was never given out."""
    if after is not None and not is_id(after, prefix):
        raise InvalidField("no such cursor", pointer="/after")
    return after
