"""Reading a local folder of photos in one of the accepted layouts."""

import os
from dataclasses import dataclass
from pathlib import Path

from service.client.api import ClientError
from service.layouts import InvalidLayout, Labelling, read_layout

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


class UnusableSource(ClientError):
    """Nothing there that can be uploaded."""


@dataclass(frozen=True, slots=True)
class Photo:
    path: Path
    name: str  # relative to the folder, with slashes
    labelling: Labelling


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    photos: tuple[Photo, ...]  # in the order of their names
    kind: str  # of a task that they suit: multiclass, multilabel or regression
    each_its_own: bool  # labelled one by one by metadata, so that neighbours rarely share their labels
    problems: tuple[tuple[str, str], ...]  # (file, why it can't be taken)
    left_out: tuple[str, ...]  # files that are no images


def is_archive(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(ARCHIVE_SUFFIXES)


def read_folder(folder: Path) -> Folder:
    """List a folder's photos with their labels; no photo is opened.

    Raises: UnusableSource: no folder, no photos, or broken metadata.
    """
    if not folder.is_dir():
        raise UnusableSource(f"{folder} is neither a folder nor an archive ({', '.join(ARCHIVE_SUFFIXES)})")
    try:
        layout = read_layout(files_below(folder), lambda name: (folder / name).read_text("utf-8"))
    except (InvalidLayout, UnicodeDecodeError, OSError) as broken:
        raise UnusableSource(f"{folder}: {broken}") from broken
    if not layout.photos and not layout.problems:
        raise UnusableSource(f"{folder} holds no .jpg, .jpeg, .png or .webp file")
    values = any(labelling.value is not None for labelling in layout.photos.values())
    return Folder(
        photos=tuple(Photo(folder / name, name, labelling) for name, labelling in layout.photos.items()),
        kind="regression" if values else "multilabel" if layout.several else "multiclass",
        each_its_own=layout.kind == "metadata",
        problems=layout.problems,
        left_out=layout.left_out,
    )


def files_below(folder: Path) -> list[str]:
    """All files, links to folders not followed (they may lead in circles)."""
    return [
        (Path(at) / name).relative_to(folder).as_posix() for at, _, names in os.walk(folder) for name in names
    ]
