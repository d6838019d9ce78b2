"""Where the files of embeddings go: marked with what made them, each written whole or not at all."""

import json
from dataclasses import asdict, dataclass

from models.errors import PolyheadError
from service.bulk.parts import PREFIX, SUFFIX
from service.store.blobs import Blobs

MARK = "bulk-embed.json"


class UnusableDestination(PolyheadError):
    """One line that says why nothing may be written there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeBy:
    """What all files of a destination have in common."""

    source: str  # URL
    backbone: str
    backbone_digest: str
    images_per_file: int
    any_name: bool


class Destination:
    def __init__(self, url: str) -> None:
        """Raises: StoreUnavailable."""
        self.url = url
        self._blobs = Blobs(url)

    def claim(self, made_by: MadeBy) -> set[str]:
        """Mark it as this run's own, or find it marked by an earlier one.

        Returns: the names of the files that are there.
        Raises:  UnusableDestination: it holds something else. StoreUnavailable, StoreFull.
        """
        names = self._blobs.names()
        if MARK in names:
            self._check(made_by)
        elif names:
            raise UnusableDestination(
                f"{self.url} isn't empty, and holds no {MARK}: choose a new folder (there is {min(names)})"
            )
        else:
            self._blobs.put_new(MARK, (json.dumps(asdict(made_by), indent=2) + "\n").encode())
        return {name for name in names if name.startswith(PREFIX) and name.endswith(SUFFIX)}

    def put(self, name: str, data: bytes) -> None:
        """Write a file durably, whole or not at all. Raises: StoreUnavailable, StoreFull."""
        self._blobs.put_new(name, data)

    def delete(self, name: str) -> None:
        """Raises: StoreUnavailable."""
        self._blobs.delete(name)

    def _check(self, made_by: MadeBy) -> None:
        try:
            said = json.loads(self._blobs.get(MARK))
            before = {name: said[name] for name in asdict(made_by)}
        except (ValueError, KeyError, TypeError):
            raise UnusableDestination(f"{self.url}/{MARK} can't be read: choose a new folder") from None
        for name, now in asdict(made_by).items():
            if before[name] != now:
                raise UnusableDestination(
                    f"{self.url} was made with {name} {before[name]}, and this run has {now}: "
                    "choose a new folder"
                )
