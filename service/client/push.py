"""`polyhead push`: a folder or an archive of photos becomes a trained and reported task."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from service.client.api import Client, describe_problem
from service.client.folder import UnusableSource, is_archive, read_folder
from service.client.training import follow, train
from service.client.upload import Tally, upload_archive, upload_photos

MOST_LISTED = 20  # failures printed; the rest is counted


@dataclass(frozen=True, slots=True, kw_only=True)
class PushOptions:
    source: Path
    task: str
    kind: str | None  # None: as the folder's labels suggest
    train: bool
    strategy: str
    publish: str
    batch: int  # photos in one request


def push(client: Client, options: PushOptions, console: Console) -> bool:
    """Upload, and train if asked; False where something failed.

    Raises: ClientError: nothing to upload, or the service refuses or is away.
    """
    client.reach()
    uploaded = push_archive if is_archive(options.source) else push_folder
    started = time.monotonic()
    tally = uploaded(client, options, console)
    tell_tally(tally, time.monotonic() - started, console)
    if tally.created + tally.duplicates == 0:
        console.print(Text("Nothing of it was taken, so nothing is trained.", "red"))
        return False
    trained = not options.train or train(
        client, options.task, strategy=options.strategy, publish=options.publish, console=console
    )
    return trained and not tally.failures and not tally.conflicts


def push_folder(client: Client, options: PushOptions, console: Console) -> Tally:
    folder = read_folder(options.source)
    prepare_task(client, options.task, options.kind, folder.kind, console)
    if folder.left_out:
        console.print(f"Left out: {len(folder.left_out)} (neither .jpg, .jpeg, .png nor .webp)")
    tally = upload_photos(
        client,
        options.task,
        folder.photos,
        batch=options.batch,
        as_json=folder.each_its_own,
        console=console,
    )
    tally.failures.extend(folder.problems)
    return tally


def push_archive(client: Client, options: PushOptions, console: Console) -> Tally:
    prepare_task(client, options.task, options.kind, "multiclass", console)
    run = upload_archive(client, options.task, options.source, console=console)
    console.print(f"Import {run['id']} of {options.source.name} has begun.")
    run = follow(client, run["id"], console)
    tally = Tally()
    for item in client.pages(f"/v1/runs/{run['id']}/results", limit=500):
        tally.add(item["filename"], item)
    if run["state"] != "succeeded":
        why = describe_problem(run["error"]) if run.get("error") else run["state"]
        tally.failures.append((options.source.name, why))
    return tally


def prepare_task(client: Client, name: str, kind: str | None, suits: str, console: Console) -> None:
    task, is_new = client.ensure_task(name, kind or suits)
    console.print(f"Task {name} ({task['kind']}) {'is created' if is_new else 'exists'}.")
    if kind is not None and task["kind"] != kind:
        raise UnusableSource(f"task {name} is {task['kind']}, not {kind}")


def tell_tally(tally: Tally, seconds: float, console: Console) -> None:
    counts = {
        "created": tally.created,
        "there already": tally.duplicates,
        "in conflict": len(tally.conflicts),
        "failed": len(tally.failures),
    }
    said = ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "no photos"
    console.print(f"Uploaded in {seconds:.1f} s ({tally.total / max(seconds, 1e-3):.0f}/s): {said}.")
    list_some("conflict", tally.conflicts, console)
    list_some("failed", tally.failures, console)


def list_some(word: str, items: Sequence[tuple[str, str]], console: Console) -> None:
    for name, why in items[:MOST_LISTED]:
        console.print(Text(f"  {word}: {name}: {why}", "yellow"), soft_wrap=True)
    if len(items) > MOST_LISTED:
        console.print(f"  … and {len(items) - MOST_LISTED} more")
