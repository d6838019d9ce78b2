"""One import: the images of an archive become examples of a task, a chunk at a time.

What a chunk has added stays, whatever becomes of the rest. After a crash the import goes on with the images
that have no recorded result.
"""

import errno
import os
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from models.errors import PolyheadError, UnsupportedImage
from service.errors import InvalidArchive, InvalidField, StoreFull, StoreUnavailable
from service.labelling import check_fits
from service.layouts import METADATA_NAMES, InvalidLayout, Labelling, read_layout
from service.schemas.problems import describe
from service.store import Store
from service.store.keys import image_key
from service.store.records import AddResult, ImportItem, NewExample, Run, Task
from service.trainer.archives import Archive, Limits, Member, open_archive, printable
from service.trainer.child import Report
from service.trainer.jobs import Embedded
from service.trainer.lease import Cancelled, Lease
from service.trainer.workbench import CHUNK_BYTES, CHUNK_IMAGES, Countdown, Phases, Workbench

OTHER_IMAGES = frozenset({".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2"})
DETAIL_CHARACTERS = 500
PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One result of an import: an image of the archive, or a row of its metadata that names none."""

    index: int  # its place in the results
    filename: str
    member: int | None  # its place in the archive; None: there is nothing to read
    labelling: Labelling
    error: PolyheadError | None  # what is known to be wrong with it before it is read


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    entries: tuple[Entry, ...]
    skipped: int  # files that are neither images nor metadata


def import_archive(run: Run, bench: Workbench, lease: Lease) -> dict[str, Any]:
    """Add the images of a run's archive to its task.

    Returns: how many were created, duplicates, conflicts, failed and skipped.
    Raises:  InvalidArchive: it is unreadable or hostile, and nothing was added; or no image could be taken.
             Interrupted, LostLease, UnknownTask: the run is to be left; `Cancelled` has the result so far.
    """
    bench.check_backbone(run)
    task = bench.store.tasks.get_by_id(run.task_id)
    phases = Phases(lease)
    with scratch_file(run) as path:
        with phases.phase("reading"):
            _download(bench.store, run.options["archive"], path, lease)
            archive = open_archive(path, _limits(bench), _is_metadata)
            plan = plan_import(task, archive, max_rows=bench.settings.max_archive_members)
        if not plan.entries:
            raise InvalidArchive("the archive has no images: JPEG, PNG and WebP are read")
        importing = _Import(run=run, bench=bench, lease=lease, task=task, plan=plan)
        with phases.phase("importing") as report:
            return importing.carry_out(archive, report)


def plan_import(task: Task, archive: Archive, *, max_rows: int) -> Plan:
    """Say of each image what its place or its metadata row says; of each other file, whether it matters.

    Raises: InvalidArchive: metadata that can't be understood.
    """
    readable = {member.path for member in archive.members if member.error is None}
    try:
        layout = read_layout(readable, lambda name: _text(name, archive.documents[name], max_rows))
    except (InvalidLayout, RecursionError) as error:  # the second from JSON of thousands of brackets
        raise InvalidArchive(str(error)[:DETAIL_CHARACTERS]) from error
    problems = dict(layout.problems)
    entries, skipped = list[Entry](), 0
    for member in archive.members:
        entry = _entry(len(entries), task, member, layout.photos.get(member.path), problems.get(member.path))
        if entry is not None:
            entries.append(entry)
        elif not _is_metadata(member.path):
            skipped += 1
    for name, problem in layout.problems:  # rows that name no image of the archive
        if name not in readable:
            entries.append(_failed(len(entries), name, InvalidField(problem[:DETAIL_CHARACTERS])))
    return Plan(entries=tuple(entries), skipped=skipped)


def _entry(
    index: int, task: Task, member: Member, labelling: Labelling | None, problem: str | None
) -> Entry | None:
    if member.error is not None:
        return _failed(index, member.path, member.error)
    if problem is not None:
        return _failed(index, member.path, InvalidField(problem[:DETAIL_CHARACTERS]))
    if labelling is None:
        other = PurePosixPath(member.path).suffix.lower() in OTHER_IMAGES
        return _failed(index, member.path, UnsupportedImage()) if other else None
    error: PolyheadError | None = None
    try:
        labelling = _fitting(task, labelling)
    except PolyheadError as unfit:
        error = unfit
    return Entry(index=index, filename=member.path, member=member.index, labelling=labelling, error=error)


def _failed(index: int, name: str, error: PolyheadError) -> Entry:
    return Entry(index=index, filename=printable(name), member=None, labelling=Labelling(), error=error)


def _fitting(task: Task, said: Labelling) -> Labelling:
    """What is said in the form that the task takes: a folder or a label of a regression task is a number.

    Raises: InvalidField, UnknownLabel.
    """
    if task.kind == "regression" and said.labels is not None and said.value is None:
        try:
            value = float(said.labels[0])
        except ValueError:
            raise InvalidField(f"{said.labels[0][:80]!r} is no number", pointer="/label") from None
        said = Labelling(value=value, group=said.group, split=said.split)
    check_fits(task, said.labels, said.value)
    return said


@dataclass(frozen=True, slots=True, kw_only=True)
class _Import:
    run: Run
    bench: Workbench
    lease: Lease
    task: Task
    plan: Plan

    def carry_out(self, archive: Archive, report: Report) -> dict[str, Any]:
        """Raises: as import_archive."""
        done = list(self._recorded())
        counts = Counter(map(_fate, done))
        missing = {entry.index: entry for entry in self.plan.entries}
        for item in done:
            missing.pop(item.index, None)
        countdown = Countdown(report, len(self.plan.entries), len(done))
        try:
            for items in self._import(archive, list(missing.values()), countdown):
                self.bench.store.runs.add_items(self.run.id, self.run.attempt, items)
                counts.update(map(_fate, items))
                countdown.show(counts.total())
                self.lease.check()
        except Cancelled as cancelled:
            cancelled.result = self._result(counts)
            raise
        if counts["failed"] == len(self.plan.entries):
            raise InvalidArchive(self._nothing_taken())
        return self._result(counts)

    def _recorded(self) -> Iterator[ImportItem]:
        """What an earlier attempt at this run has finished."""
        page = self.bench.store.runs.items(self.run.id, limit=PAGE)
        yield from page.data
        while page.next is not None:
            page = self.bench.store.runs.items(self.run.id, limit=PAGE, after=page.next)
            yield from page.data

    def _import(
        self, archive: Archive, entries: Sequence[Entry], countdown: Countdown
    ) -> Iterator[list[ImportItem]]:
        """Take the entries a chunk at a time; yields what became of each chunk."""
        known = [_item(entry, entry.error) for entry in entries if entry.error is not None]
        for start in range(0, len(known), PAGE):
            yield known[start : start + PAGE]
        done = len(self.plan.entries) - len(entries) + len(known)
        wanted = {entry.member: entry for entry in entries if entry.error is None}
        chunk, size = list[tuple[Entry, bytes]](), 0
        for member, data in archive.contents({index for index in wanted if index is not None}):
            entry = wanted[member]
            if isinstance(data, InvalidArchive):
                yield [_item(entry, data)]
                done += 1
                continue
            chunk.append((entry, data))
            size += len(data)
            if len(chunk) == CHUNK_IMAGES or size >= CHUNK_BYTES:
                yield self._add(chunk, partial(_show, countdown, done))
                done += len(chunk)
                chunk, size = [], 0
        if chunk:
            yield self._add(chunk, partial(_show, countdown, done))

    def _add(self, chunk: Sequence[tuple[Entry, bytes]], report: Report) -> list[ImportItem]:
        answers = self.bench.embed([data for _, data in chunk], report=report, lease=self.lease)
        items = dict[int, ImportItem]()
        images = list[tuple[Entry, NewExample]]()
        for (entry, data), answer in zip(chunk, answers, strict=True):
            if isinstance(answer, PolyheadError):
                items[entry.index] = _item(entry, answer)
            else:
                image = _example(self.task, entry, len(data), answer)
                self.bench.store.blobs.put_new(image.blob_key, data)
                images.append((entry, image))
        for (entry, _), result in zip(images, self._add_rows([image for _, image in images]), strict=True):
            items[entry.index] = _item(entry, result.error, result)
        return [items[entry.index] for entry, _ in chunk]

    def _add_rows(self, images: Sequence[NewExample]) -> list[AddResult]:
        """Add examples whose bytes are stored; bytes that no row refers to are taken back."""
        store, results = self.bench.store, list[AddResult]()
        try:
            results = store.examples.add(
                self.task, images, backbone_digest=self.bench.identity.digest, now=time.time()
            )
        except StoreUnavailable:
            raise  # perhaps the rows are there all the same, and need their bytes
        except PolyheadError:
            self._take_back(images, results)
            raise
        self._take_back(images, results)
        return results

    def _take_back(self, images: Sequence[NewExample], results: Sequence[AddResult]) -> None:
        created = [result.status == "created" for result in results] or [False] * len(images)
        for image, kept in zip(images, created, strict=True):
            if not kept:
                self.bench.store.blobs.delete(image.blob_key)

    def _result(self, counts: Mapping[str, int]) -> dict[str, Any]:
        fates = ("created", "duplicates", "conflicts", "failed")
        return {fate: counts.get(fate, 0) for fate in fates} | {"skipped": self.plan.skipped}

    def _nothing_taken(self) -> str:
        first = self.bench.store.runs.items(self.run.id, limit=1).data[0]
        why = (first.error or {}).get("detail")
        return (
            f"none of the archive's {len(self.plan.entries)} images could be taken; {first.filename}: {why}"
        )


def _show(countdown: Countdown, done: int, progress: dict[str, Any]) -> None:
    countdown.show(done + progress["done"])


def _fate(item: ImportItem) -> str:
    return {"created": "created", "duplicate": "duplicates", "conflict": "conflicts", None: "failed"}[
        item.status
    ]


def _item(entry: Entry, error: PolyheadError | None, result: AddResult | None = None) -> ImportItem:
    return ImportItem(
        index=entry.index,
        filename=entry.filename,
        status=result.status if result else None,
        example_id=result.example_id if result else None,
        error=describe(error).to_json() if error else None,
    )


def _example(task: Task, entry: Entry, size: int, image: Embedded) -> NewExample:
    return NewExample(
        image_digest=image.digest,
        blob_key=image_key(task, image.digest),
        media_type=image.media_type,
        filename=entry.filename,
        width=image.width,
        height=image.height,
        size=size,
        perceptual_hash=image.perceptual_hash,
        labels=entry.labelling.labels,
        value=entry.labelling.value,
        group=entry.labelling.group,
        split=entry.labelling.split,
        embedding=image.embedding,
    )


def _is_metadata(path: str) -> bool:
    return PurePosixPath(path).name in METADATA_NAMES


def _text(name: str, data: bytes, max_rows: int) -> str:
    if data.count(b"\n") + data.count(b"\r") > 2 * max_rows:  # a row costs far more memory than its bytes
        raise InvalidLayout(f"{name} has more rows than the {max_rows} files allowed")
    try:
        return unicodedata.normalize("NFC", data.decode())  # as the members' paths
    except UnicodeDecodeError as error:
        raise InvalidLayout(f"{name} is not UTF-8") from error


def _limits(bench: Workbench) -> Limits:
    return Limits(
        members=bench.settings.max_archive_members,
        unpacked_bytes=bench.settings.max_unpacked_bytes,
        member_bytes=bench.settings.max_request_bytes,
    )


@contextmanager
def scratch_file(run: Run) -> Iterator[Path]:
    """An empty file for a run's archive; what an attempt that was killed here has left is removed."""
    prefix = f"polyhead-{run.id}-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        left.unlink(missing_ok=True)
    # Made here, under a name that nobody foresees: anyone may put links into this folder.
    descriptor, name = tempfile.mkstemp(prefix=prefix)
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _download(store: Store, key: str, path: Path, lease: Lease) -> None:
    """Raises: StoreFull: the scratch folder has no room."""
    stream = store.blobs.open_stream(key)
    try:
        with path.open("wb") as file:
            for chunk in stream.chunks:
                file.write(chunk)
                lease.check()
    except OSError as error:
        raise (StoreFull() if error.errno == errno.ENOSPC else StoreUnavailable()) from error
