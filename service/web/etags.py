"""Strong ETags of revisions, and the preconditions that name them (RFC 9110, section 13)."""

import re
from dataclasses import dataclass
from typing import Annotated

from fastapi import Header

from service.errors import StaleETag

_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e]*)"')


def etag_of(revision: int) -> str:
    return f'"{revision}"'


@dataclass(frozen=True, slots=True)
class IfMatch:
    """What If-Match asks for; nothing, when it is absent."""

    header: str | None

    def check(self, revision: int | None) -> int | None:
        """The revision to insist on while writing, or None for last write wins.

        Args:    revision: the resource's as it was just read; None: there is no such resource.
        Raises:  StaleETag.
        """
        if self.header is None:
            return None
        if revision is None:
            raise StaleETag
        if self.header.strip() == "*":
            return revision
        # A weak tag never matches here: the comparison is strong.
        if str(revision) in {tag for weak, tag in _TAG.findall(self.header) if not weak}:
            return revision
        raise StaleETag


async def if_match(
    header: Annotated[
        str | None, Header(alias="If-Match", description="An ETag that was read, or `*`; absent: overwrite.")
    ] = None,
) -> IfMatch:
    return IfMatch(header)


def is_known(header: str | None, revision: int) -> bool:
    """Whether If-None-Match names what the client would get; weak tags count."""
    if header is None:
        return False
    return header.strip() == "*" or str(revision) in {tag for _, tag in _TAG.findall(header)}
