"""Where backups are kept: any number of them, and each blob once for all.

polyhead-backups.json           says what this is
blobs/…                         under the keys that they have in the store
backups/ID/TABLE-0000.jsonl.gz  rows
backups/ID/manifest.json        written last: without it there is no backup, only the remains of one
"""

import json
from pathlib import Path
from urllib.parse import unquote, urlsplit

from service.backup.errors import BackupFailed, naming
from service.backup.manifest import Manifest
from service.store.blobs import Blobs, as_url

MARK = "polyhead-backups.json"
BLOBS, BACKUPS, MANIFEST = "blobs/", "backups/", "manifest.json"


class Place:
    def __init__(self, where: str, blobs: Blobs) -> None:
        self.where = where
        self.blobs = blobs

    @classmethod
    def opened(cls, where: str, *, new: bool) -> "Place":
        """Open a folder or a URL.

        Args:   new: it may be empty, and is marked then; else it must hold backups.
        Raises: BackupFailed.
        """
        url = as_url(where)
        folder = Path(unquote(urlsplit(url).path))
        if not new and urlsplit(url).scheme == "file" and not folder.is_dir():
            raise BackupFailed(f"{folder} is no folder")
        with naming(where):
            try:
                blobs = Blobs(url)
            except ValueError as error:
                raise BackupFailed(f"can't use {where}: {error}") from error
            if MARK not in blobs.names():
                if not new:
                    raise BackupFailed(f"{where} holds no backups: there is no {MARK}")
                if not blobs.is_empty():
                    raise BackupFailed(f"{where} isn't empty, and holds no {MARK}: choose a new folder")
                blobs.put_new(MARK, (json.dumps({"format": 1}) + "\n").encode())
        return cls(where, blobs)

    def manifest(self, backup: str | None = None) -> Manifest:
        """A backup by its id, or the newest. Raises: BackupFailed, DamagedBackup."""
        with naming(self.where):
            ids = self.whole()
            chosen = backup or max(ids, default=None)
            if chosen is None:
                raise BackupFailed(f"{self.where} holds no backup that was finished")
            if chosen not in ids:
                raise BackupFailed(f"{self.where} holds no finished backup {chosen}, only {', '.join(ids)}")
            key = manifest_key(chosen)
            return Manifest.from_json(self.blobs.get(key), f"{self.where}/{key}")

    def whole(self) -> list[str]:
        """The ids of those that were finished. Raises: StoreUnavailable."""
        return sorted(id_ for id_ in self._ids() if self._finished(id_))

    def finish(self, manifest: Manifest) -> None:
        """Make a backup whole, and take away what is left of those that were interrupted before.

        Raises: BackupFailed.
        """
        with naming(self.where):
            there = {each.key for each in self.blobs.list(folder_of(manifest.id))}
            if not there >= {part.key for part in manifest.parts}:
                raise BackupFailed(f"another backup into {self.where} was finished first: run it again")
            self.blobs.put_new(manifest_key(manifest.id), manifest.to_json())
            for id_ in self._ids():
                if id_ < manifest.id and not self._finished(id_):
                    self.blobs.delete_prefix(folder_of(id_))

    def _ids(self) -> list[str]:
        return [path.rpartition("/")[2] for path in self.blobs.folders(BACKUPS)]

    def _finished(self, id_: str) -> bool:
        return any(each.key == manifest_key(id_) for each in self.blobs.list(folder_of(id_)))


def folder_of(id_: str) -> str:
    return f"{BACKUPS}{id_}/"


def manifest_key(id_: str) -> str:
    return f"{folder_of(id_)}{MANIFEST}"
