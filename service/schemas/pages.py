"""Lists: a page and its query."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field

from service.store.records import Page

Item = TypeVar("Item")
Wire = TypeVar("Wire", bound=BaseModel)

MAX_LIMIT = 500


class PageBody(BaseModel, Generic[Wire]):
    """One page, newest first."""

    data: list[Wire]
    has_more: bool
    next: str | None = Field(description="Pass it as `after` for the next page.")

    @classmethod
    def of(cls, page: Page[Item], render: Callable[[Item], Wire]) -> "PageBody[Wire]":
        return cls(data=[render(item) for item in page.data], has_more=page.next is not None, next=page.next)


Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Most items in the page.")]
After = Annotated[str | None, Query(max_length=100, description="`next` of the page before.")]


def moment(seconds: float) -> datetime:
    """Seconds since the epoch as what JSON shows in RFC 3339, UTC."""
    return datetime.fromtimestamp(seconds, UTC)
