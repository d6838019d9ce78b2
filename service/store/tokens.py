"""API keys as text, and what is stored of them: an HMAC under a pepper that the database doesn't have.

A key is `ph_`, 26 hex digits that name it in public, `_`, and 64 hex digits of 256 random bits. So much
chance needs no slow hash: whoever has the table can't guess a key, and without a pepper can't even try.
"""

import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from models.errors import PolyheadError
from service.store.ids import new_id

MIN_PEPPER_CHARACTERS = 32
_FORM = re.compile(r"ph_([0-9a-f]{26})_([0-9a-f]{64})")


class UnusablePeppers(PolyheadError):
    """One line that says what is wrong with the file of peppers."""


@dataclass(frozen=True, slots=True)
class Token:
    """One key as its owner holds it."""

    id: str  # key_…, public: for lists and logs
    secret: str = field(repr=False)  # never stored, never logged

    @classmethod
    def new(cls) -> Self:
        return cls(new_id("key"), secrets.token_hex(32))

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None for what can't be a key."""
        found = _FORM.fullmatch(text)
        return None if found is None else cls(f"key_{found[1]}", found[2])

    @property
    def text(self) -> str:
        return f"ph_{self.id.removeprefix('key_')}_{self.secret}"


class Peppers:
    """The secrets under which keys are kept: the first for new ones, all of them to verify."""

    def __init__(self, values: tuple[str, ...]) -> None:
        """Args: values: at least one."""
        self._by_id = {pepper_id(value): value.encode() for value in values}

    @property
    def ids(self) -> tuple[str, ...]:
        """The first one is for new keys."""
        return tuple(self._by_id)

    def digest(self, token: Token, pepper: str) -> str:
        """HMAC-SHA256 (64 hex digits) of the whole key, so that a digest is of no use to another id."""
        return hmac.new(self._by_id[pepper], token.text.encode(), hashlib.sha256).hexdigest()

    def verify(self, token: Token, digest: str, pepper: str) -> bool:
        """Whether the digest is this key's, in constant time."""
        return pepper in self._by_id and hmac.compare_digest(self.digest(token, pepper), digest)


def pepper_id(value: str) -> str:
    """16 hex digits that tell one pepper from another and say nothing else of it."""
    return hmac.new(value.encode(), b"polyhead: which pepper", hashlib.sha256).hexdigest()[:16]


def read_peppers(path: Path) -> Peppers:
    """Raises: UnusablePeppers: there is no such file, no pepper in it, or one that could be guessed."""
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise UnusablePeppers(f"{path} is not UTF-8") from error
    except OSError as error:
        raise UnusablePeppers(f"can't read the peppers of the keys in {path}: {error.strerror}") from error
    values = tuple(line for line in lines if line)
    if not values:
        raise UnusablePeppers(f"there is no pepper in {path}")
    if any(len(value) < MIN_PEPPER_CHARACTERS for value in values):
        raise UnusablePeppers(f"a pepper in {path} has fewer than {MIN_PEPPER_CHARACTERS} characters")
    return Peppers(values)


def make_peppers(path: Path) -> None:
    """Write a file with a new pepper, unless there is one. Raises: UnusablePeppers."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    except OSError as error:
        raise UnusablePeppers(f"can't write a pepper to {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32) + "\n")
