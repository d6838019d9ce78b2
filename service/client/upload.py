"""Uploading photos in batches: every file gets its own result, and a bad one never fails its neighbours."""

import base64
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from service.client.api import Client, Json, Refused, describe_problem, task_path
from service.client.folder import Photo

BATCH_BYTES = 32 * 2**20  # of files; half of the service's usual limit, since base64 and headers come on top
LINE_EVERY_S = 2.0  # where there is no terminal to draw a bar on
# What may be wrong with each file of a batch: it is sent again in halves, so that each gets its reason.
ITEM_CODES = frozenset(
    {
        "body_too_large",
        "image_too_large",
        "invalid_field",
        "invalid_image",
        "label_conflict",
        "malformed_request",
        "quota_exceeded",
        "too_many_images",
        "too_many_values",
        "unknown_label",
        "unsupported_image",
    }
)


@dataclass(slots=True)
class Tally:
    """What became of every file."""

    created: int = 0
    duplicates: int = 0
    conflicts: list[tuple[str, str]] = field(default_factory=list)  # (file, why)
    failures: list[tuple[str, str]] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.created + self.duplicates + len(self.conflicts) + len(self.failures)

    def add(self, name: str, item: Json) -> None:
        """Count one result of the service: `{status, error}`."""
        error = item.get("error")
        why = describe_problem(error) if error else "it has another label already, which stays"
        match item.get("status"):
            case "created":
                self.created += 1
            case "duplicate":
                self.duplicates += 1
            case "conflict":
                self.conflicts.append((name, why))
            case _:
                self.failures.append((name, why if error else "no reason given"))


@dataclass(frozen=True, slots=True)
class Loaded:
    photo: Photo
    data: bytes


class RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.0f}/s")


def progress_bar(console: Console) -> Progress:
    """Count, rate and time left; nothing where there is no terminal."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
        disable=not console.is_terminal,
    )


def upload_photos(
    client: Client, task: str, photos: Sequence[Photo], *, batch: int, as_json: bool, console: Console
) -> Tally:
    """Upload all photos, in order; `as_json` where neighbours rarely share their labels."""
    tally = Tally()
    started = said = time.monotonic()
    with progress_bar(console) as progress:
        bar = progress.add_task("Uploading", total=len(photos))
        for some in batches(read_photos(photos, tally), batch, alike=not as_json):
            send_batch(client, task, some, tally, as_json=as_json)
            progress.update(bar, completed=tally.total)
            now = time.monotonic()
            if not console.is_terminal and now - said >= LINE_EVERY_S:
                said = now
                rate = tally.total / (now - started)
                left_s = (len(photos) - tally.total) / rate
                console.print(f"{tally.total} of {len(photos)} photos, {rate:.0f}/s, {left_s:.0f} s left")
    return tally


def read_photos(photos: Iterable[Photo], tally: Tally) -> Iterator[Loaded]:
    """The photos with their bytes; one that can't be read is a failure of its own."""
    for photo in photos:
        try:
            yield Loaded(photo, photo.path.read_bytes())
        except OSError as unreadable:
            tally.failures.append((photo.name, unreadable.strerror or str(unreadable)))


def batches(loaded: Iterable[Loaded], most: int, *, alike: bool) -> Iterator[list[Loaded]]:
    """At most `most` photos and BATCH_BYTES each; `alike`: all of one labelling, in order."""
    for _, same in itertools.groupby(loaded, key=lambda one: one.photo.labelling if alike else None):
        some, size = list[Loaded](), 0
        for one in same:
            if some and (len(some) == most or size + len(one.data) > BATCH_BYTES):
                yield some
                some, size = [], 0
            some.append(one)
            size += len(one.data)
        yield some


def send_batch(client: Client, task: str, batch: Sequence[Loaded], tally: Tally, *, as_json: bool) -> None:
    """Upload one batch; one that is refused as a whole is sent again in halves."""
    try:
        answer = client.post(
            task_path(task, "examples"), **(json_request(batch) if as_json else multipart_request(batch))
        )
    except Refused as refused:
        if refused.code not in ITEM_CODES:
            raise
        if len(batch) == 1:
            status = "conflict" if refused.code == "label_conflict" else None
            tally.add(batch[0].photo.name, {"status": status, "error": refused.problem})
            return
        middle = len(batch) // 2
        send_batch(client, task, batch[:middle], tally, as_json=as_json)
        send_batch(client, task, batch[middle:], tally, as_json=as_json)
        return
    for item in answer["data"]:
        tally.add(batch[item["index"]].photo.name, item)


def multipart_request(batch: Sequence[Loaded]) -> dict[str, Any]:
    """All photos of one labelling: its fields apply to every file."""
    said = batch[0].photo.labelling
    fields: dict[str, Any] = {"label": list(said.labels or ()), "group": said.group, "split": said.split}
    return {
        "files": [("file", (one.photo.name, one.data)) for one in batch],
        "data": {name: value for name, value in fields.items() if value},
    }


def json_request(batch: Sequence[Loaded]) -> dict[str, Any]:
    return {"json": {"examples": [json_example(one) for one in batch]}}


def json_example(one: Loaded) -> Json:
    said = one.photo.labelling
    fields: Json = {
        "image": base64.b64encode(one.data).decode(),
        "filename": one.photo.name,
        "labels": None if said.labels is None else list(said.labels),
        "value": said.value,
        "group": said.group,
        "split": said.split,
    }
    return {name: value for name, value in fields.items() if value is not None}


def upload_archive(client: Client, task: str, archive: Any, *, console: Console) -> Json:
    """Upload one archive, streamed from disk; the accepted import run."""
    with (
        progress_bar(console) as progress,
        progress.open(archive, "rb", description="Uploading", total=archive.stat().st_size) as file,
    ):
        return client.post(task_path(task, "examples"), files={"archive": (archive.name, file)})
