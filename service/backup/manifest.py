"""What a backup holds: written last, it is what makes a backup whole."""

import json
from dataclasses import asdict, dataclass, field

from service.backup.errors import DamagedBackup

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A file of rows: JSON objects, one a line, compressed by gzip."""

    table: str
    key: str
    rows: int
    sha256: str  # of the file, hex


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    id: str  # the time of its rows, then random digits: later backups have greater ones
    schema: str  # revision
    began_at: str  # RFC 3339, UTC; the moment of its rows
    finished_at: str
    parts: tuple[Part, ...]  # tables in an order in which each finds there what it refers to
    blobs: int  # that its rows name
    lacks: dict[str, str] = field(default_factory=dict)  # blobs that could not be had, and why

    def to_json(self) -> bytes:
        return (json.dumps({"format": FORMAT} | asdict(self), indent=2, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> "Manifest":
        """Raises: DamagedBackup."""
        try:
            said = json.loads(data)
            if said.pop("format") != FORMAT:
                raise DamagedBackup(f"{where} is of a newer version")
            parts = tuple(Part(**part) for part in said.pop("parts"))
            return cls(parts=parts, **said)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedBackup(f"{where} can't be read: {type(error).__name__}") from error
