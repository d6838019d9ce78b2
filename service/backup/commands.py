"""The command line of `backup`, `restore` and `verify`; imports wait till they run: `--help` stays light."""

import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from service.command import DataDir, fail, load_settings

if TYPE_CHECKING:
    from rich.console import Console

OK, LACKING, FAILED, INTERRUPTED = 0, 1, 2, 130

Backup = Annotated[str | None, typer.Option(help="Id of a backup; default: the newest that was finished.")]


def backup(
    place: Annotated[
        str,
        typer.Argument(help="Folder or URL (s3://bucket/prefix, gs://…, az://…): new, empty, or of backups."),
    ],
    *,
    data_dir: DataDir = None,
) -> None:
    """Back up the database and the blobs, while servers and trainers go on.

    Rows first, of one moment, then the blobs that they name; those that an earlier backup has brought there
    stay as they are. An interrupted backup counts for nothing, and the next one goes on with its blobs.
    The secrets under which API keys are kept (POLYHEAD_KEY_PEPPERS_FILE) are not in it.

    Exit code 0: all well; 1: made, but blobs are missing or damaged; 2: not made; 130: interrupted.
    """
    from service.backup.making import back_up  # noqa: PLC0415 - see the module's docstring, here and below
    from service.backup.place import Place  # noqa: PLC0415
    from service.backup.source import open_source  # noqa: PLC0415

    with _working("what was copied stays; run it again to go on") as console:
        settings = load_settings(data_dir=data_dir)
        with open_source(settings) as source:
            made = back_up(source, Place.opened(place, new=True), console)
        console.print(f"backup {made.id} is whole: {made.blobs:,} blobs in {place}", soft_wrap=True)
        _end(made.lacks)


def restore(
    place: Annotated[str, typer.Argument(help="Folder or URL of backups.")],
    *,
    backup: Backup = None,
    data_dir: DataDir = None,
) -> None:
    """Restore a backup into an empty database and an empty store, of the same kind or another.

    Where to is what the settings say: POLYHEAD_DATABASE_URL and POLYHEAD_BLOB_URL, or the data folder. Start
    servers and trainers after it.

    Exit code 0: all well; 1: restored, but blobs are missing or damaged; 2: not restored; 130: interrupted.
    """
    from service.backup.place import Place  # noqa: PLC0415
    from service.backup.restoring import restore as run_restore  # noqa: PLC0415
    from service.processes.preflight import check_folders  # noqa: PLC0415

    with _working("the database is as it was; run it again to go on") as console:
        settings = load_settings(data_dir=data_dir)
        found = Place.opened(place, new=False)
        if settings.database_url is None or settings.blob_url is None:
            check_folders(settings)
        restored = run_restore(
            found, backup, settings.resolved_database_url, settings.resolved_blob_url, console
        )
        _end(restored.lacks)


def verify(
    place: Annotated[
        str | None, typer.Argument(help="Folder or URL of backups; default: what the settings name, live.")
    ] = None,
    *,
    backup: Backup = None,
    data_dir: DataDir = None,
) -> None:
    """Read every blob that the rows name, of a live deployment or a backup, and compare its digest.

    Exit code 0: all well; 1: blobs are missing or damaged, a line each; 2: can't tell; 130: interrupted.
    """
    from service.backup.place import Place  # noqa: PLC0415
    from service.backup.source import open_source  # noqa: PLC0415
    from service.backup.verifying import verify_backup, verify_live  # noqa: PLC0415

    with _working("nothing was changed") as console:
        if place is not None:
            verified = verify_backup(Place.opened(place, new=False), backup, console)
        else:
            with open_source(load_settings(data_dir=data_dir)) as source:
                verified = verify_live(source, console)
        good = verified.blobs - len(verified.lacks)
        console.print(
            f"{good:,} of {verified.blobs:,} blobs are as they should be; {verified.others:,} others, "
            "which no row names",
            soft_wrap=True,
        )
        _end(verified.lacks)


@contextmanager
def _working(after_interruption: str) -> "Iterator[Console]":
    """A console for what is said on the way; trouble is one line and exit code 2."""
    import sqlite3  # noqa: PLC0415
    import tempfile  # noqa: PLC0415

    from rich.console import Console  # noqa: PLC0415

    from models.errors import PolyheadError  # noqa: PLC0415
    from service.telemetry import configure_logging  # noqa: PLC0415

    configure_logging("warning", "backup")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start without
    try:
        yield Console(stderr=True, markup=False, highlight=False, emoji=False)
    except PolyheadError as error:
        fail(" ".join(str(error).split()), code=FAILED)
    except (OSError, sqlite3.Error) as error:  # the places' own failures have names
        fail(f"can't use the temporary folder {tempfile.gettempdir()}: {error}", code=FAILED)
    except KeyboardInterrupt:
        fail(f"interrupted: {after_interruption}", code=INTERRUPTED)


def _end(lacks: Mapping[str, str]) -> None:
    """Say what is wrong on standard output, a line each, and end the process."""
    for key, wrong in sorted(lacks.items()):
        sys.stdout.write(f"{key} {wrong}\n")
    sys.exit(LACKING if lacks else OK)
