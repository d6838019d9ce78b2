"""Who asks: the tenant whose things a request is about, and the key that it came with."""

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from service.store.records import DEFAULT_TENANT, ApiKey

_PLACE = "polyhead.caller"


@dataclass(frozen=True, slots=True)
class Caller:
    tenant: str
    key: ApiKey | None  # None: keys are off, or what is asked is open


ANYBODY = Caller(DEFAULT_TENANT, None)


def remember(scope: MutableMapping[str, Any], caller: Caller) -> None:
    scope[_PLACE] = caller


def caller_of(scope: Mapping[str, Any]) -> Caller:
    """Raises: KeyError where nobody has looked who asks: better no answer than another tenant's."""
    caller: Caller = scope[_PLACE]
    return caller


def named(scope: Mapping[str, Any]) -> dict[str, str]:
    """For a log line: the key's id and the tenant, where the request came with a key."""
    caller: Caller | None = scope.get(_PLACE)
    return {} if caller is None or caller.key is None else {"key": caller.key.id, "tenant": caller.tenant}
