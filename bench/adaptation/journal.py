"""What has been measured, one JSON line each: an interrupted program goes on where it was."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Journal:
    """Rows of a program, of this and of other settings."""

    path: Path
    settings: dict[str, Any]  # that decide the figures: a row of others counts as not measured

    def rows(self) -> list[dict[str, Any]]:
        """Those of these settings, in the order in which they were made; of a repeated one, the last."""
        found: dict[str, dict[str, Any]] = {}
        for row in self._all():
            if row["settings"] == self.settings:
                found[json.dumps(row["key"])] = row
        return list(found.values())

    def missing(self, keys: list[list[Any]]) -> list[list[Any]]:
        done = {json.dumps(row["key"]) for row in self.rows()}
        return [key for key in keys if json.dumps(key) not in done]

    def add(self, key: list[Any], **said: Any) -> None:
        """On disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"key": key, "settings": self.settings, **said})
        with self.path.open("a+b") as file:
            if file.tell() and not self._whole():
                file.write(b"\n")  # the last line was cut off: it stays one of its own
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _whole(self) -> bool:
        return self.path.read_bytes().endswith(b"\n")

    def _all(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        found = []
        for line in self.path.read_text("utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:  # a program was killed while it wrote: measured again
                continue
        return found
