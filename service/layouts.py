"""The layouts in which labelled photos come as a folder or an archive: names in, labellings out.

    class/x.jpg                              the folder is the label
    train|validation|test/class/x.jpg        so is the split
    metadata.csv or metadata.jsonl           rows of file_name, label | labels | value, group, split

This is the convention of Hugging Face's ImageFolder. One folder around all of it, as archives often have,
is passed over. Pure: the caller lists the names and reads the metadata, so that a folder on disk and the
members of an archive are understood alike.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, get_args

from service.store.records import SplitName

SPLITS: tuple[SplitName, ...] = get_args(SplitName)
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
METADATA_NAMES = ("metadata.csv", "metadata.jsonl")
LABELS_SEPARATOR = re.compile(r"[|;]")  # in a CSV cell of `labels`; a JSON list is read too


class InvalidLayout(ValueError):
    """A metadata file that can't be understood; one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelling:
    """What is known of a photo besides its pixels."""

    labels: tuple[str, ...] | None = None  # None: not labelled; () is a multilabel photo of no class
    value: float | None = None  # regression only
    group: str | None = None
    split: SplitName | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    kind: Literal["classes", "splits", "metadata"]
    photos: dict[str, Labelling]  # by name, in the order of the names
    problems: tuple[tuple[str, str], ...]  # (name, why it can't be taken)
    left_out: tuple[str, ...]  # names that are neither images nor metadata
    several: bool  # metadata has a `labels` column


def read_layout(names: Iterable[str], read_text: Callable[[str], str]) -> Layout:
    """Understand a tree of files.

    Args:    names: POSIX paths of all files, relative to the root; read_text: the text of one of them.
    Raises:  InvalidLayout: a metadata file is broken as a whole.
    """
    visible = sorted(name for name in names if not is_hidden(name))
    metadata = [name for name in visible if PurePosixPath(name).name in METADATA_NAMES]
    images = [name for name in visible if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES]
    understood = {*metadata, *images}
    left_out = tuple(name for name in visible if name not in understood)
    if metadata:
        return from_metadata(images, {name: read_text(name) for name in metadata}, left_out)
    wrapper = wrapper_of(images)
    with_splits = has_split_folders([name.removeprefix(wrapper) for name in images])
    return Layout(
        kind="splits" if with_splits else "classes",
        photos={name: from_folders(name.removeprefix(wrapper), with_split=with_splits) for name in images},
        problems=(),
        left_out=left_out,
        several=False,
    )


def is_hidden(name: str) -> bool:
    """Also what macOS adds to its archives."""
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def wrapper_of(images: Sequence[str]) -> str:
    """`photos/` where everything is photos/class/x.jpg or deeper; a lone split folder is no wrapper."""
    parts = [PurePosixPath(name).parts for name in images]
    tops = {part[0] for part in parts}
    if len(tops) == 1 and all(len(part) > 2 for part in parts) and not tops & set(SPLITS):
        return f"{tops.pop()}/"
    return ""


def has_split_folders(images: Sequence[str]) -> bool:
    """Every top folder is a split and holds class folders; otherwise `train` may be a class of vehicles."""
    parts = [PurePosixPath(name).parts for name in images]
    return bool(parts) and all(len(part) > 2 and part[0] in SPLITS for part in parts)


def from_folders(name: str, *, with_split: bool) -> Labelling:
    """The label is the first folder (below the split); a photo at the top has none."""
    folders = PurePosixPath(name).parts[:-1]
    split: SplitName | None = None
    if with_split:
        split = next(known for known in SPLITS if known == folders[0])
        folders = folders[1:]
    return Labelling(labels=folders[:1] or None, split=split)


def from_metadata(images: Sequence[str], metadata: Mapping[str, str], left_out: tuple[str, ...]) -> Layout:
    present = frozenset(images)
    photos, problems, several = dict[str, Labelling](), list[tuple[str, str]](), False
    for source, text in metadata.items():
        folder = PurePosixPath(source).parent
        for number, row in enumerate(rows_of(source, text), start=1):
            several = several or "labels" in row
            file_name = row.get("file_name")
            if not isinstance(file_name, str) or not file_name:
                problems.append((f"{source}, row {number}", "has no file_name"))
                continue
            name = str(folder / file_name)
            try:
                labelling = from_row(row, folder)
            except InvalidLayout as invalid:
                problems.append((name, str(invalid)))
                continue
            if name not in present:
                problems.append((name, f"{source} names it, but there is no such image"))
            else:
                photos[name] = labelling
    known = photos.keys() | {name for name, _ in problems}
    problems.extend((name, "no metadata names it") for name in images if name not in known)
    return Layout(
        kind="metadata",
        photos={name: photos[name] for name in images if name in photos},
        problems=tuple(problems),
        left_out=left_out,
        several=several,
    )


def rows_of(source: str, text: str) -> list[dict[str, Any]]:
    if source.endswith(".csv"):
        try:
            return list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))
        except csv.Error as broken:
            raise InvalidLayout(f"{source}: no CSV ({broken})") from broken
    rows = list[dict[str, Any]]()
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as broken:
            raise InvalidLayout(f"{source}, line {number}: no JSON ({broken})") from broken
        if not isinstance(row, dict):
            raise InvalidLayout(f"{source}, line {number}: no JSON object")
        rows.append(row)
    return rows


def from_row(row: Mapping[str, Any], folder: PurePosixPath) -> Labelling:
    """Empty cells are absent; a split folder around the metadata is the split, unless the row says one."""
    said = {name: value for name, value in row.items() if value is not None and value != ""}
    split = said.get("split", folder.name if folder.name in SPLITS else None)
    if split is not None and split not in SPLITS:
        raise InvalidLayout(f"split {split!r} is none of {', '.join(SPLITS)}")
    return Labelling(
        labels=labels_of(said),
        value=value_of(said["value"]) if "value" in said else None,
        group=str(said["group"]) if "group" in said else None,
        split=split,
    )


def labels_of(said: Mapping[str, Any]) -> tuple[str, ...] | None:
    if "label" in said:
        return (str(said["label"]),)
    labels = said.get("labels")
    if isinstance(labels, str) and labels.startswith("["):
        try:
            labels = json.loads(labels)
        except ValueError as broken:
            raise InvalidLayout(f"labels {labels!r} are no JSON list") from broken
    if isinstance(labels, str):
        labels = [label.strip() for label in LABELS_SEPARATOR.split(labels)]
    if labels is None:
        return None
    if not isinstance(labels, list):
        raise InvalidLayout(f"labels {labels!r} are no list")
    return tuple(str(label) for label in labels)


def value_of(said: Any) -> float:
    try:
        return float(said)
    except (TypeError, ValueError, OverflowError) as broken:
        raise InvalidLayout(f"value {said!r} is no number") from broken
