"""The `polyhead` command. Each command imports what it needs, so that `--help` is quick."""

import signal
import sys
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.backup import commands as backups
from service.bulk import commands as bulk
from service.client import commands
from service.command import AsJson, DataDir, fail, load_settings
from service.preparing import commands as preparing
from service.process import import_from_working_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.settings import Settings

app = typer.Typer(
    help="One frozen vision backbone, many task heads. Every setting is an environment variable POLYHEAD_…",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def serve(
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on: 127.0.0.1, 0.0.0.0 or ::.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    data_dir: DataDir = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Ask for no keys: whoever reaches the port may do everything.")
    ] = False,
) -> None:
    """Run everything on one machine: HTTP, inference, training, an embedded database."""
    from models.errors import PolyheadError  # noqa: PLC0415 - see the module's docstring, here and below
    from service.processes.listener import check_free  # noqa: PLC0415
    from service.processes.preflight import Preflight, check_folders  # noqa: PLC0415
    from service.telemetry import configure_logging, metrics_folder  # noqa: PLC0415

    settings = load_settings(
        host=host, port=port, data_dir=data_dir, authentication="none" if insecure else None
    )
    # Until the server has handlers of its own; as PID 1 the default would be to ignore it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    configure_logging(settings.log_level, "main")
    try:
        check_free(settings.host, settings.port)
        check_folders(settings)
        with metrics_folder(), Preflight(settings) as preflight:
            from service.app import create_app  # noqa: PLC0415
            from service.processes.server import Server  # noqa: PLC0415 - meanwhile, and after the metrics have a folder
            from service.processes.supervisor import ServerFailed  # noqa: PLC0415

            try:
                Server(settings, preflight.result(), create_app).run()
            except ServerFailed as error:
                fail(str(error), code=1)
    except PolyheadError as error:
        fail(str(error), code=2)
    except KeyboardInterrupt:
        sys.exit(130)


@app.command()
def worker(data_dir: DataDir = None) -> None:
    """Run a trainer alone, on the store that the servers use."""
    from service.processes.supervisor import run_trainer_process  # noqa: PLC0415

    run_trainer_process(load_settings(data_dir=data_dir), parent=None)


@app.command()
def migrate(data_dir: DataDir = None) -> None:
    """Bring the database's schema up to date."""
    from models.errors import PolyheadError  # noqa: PLC0415
    from service.processes.preflight import check_folders  # noqa: PLC0415
    from service.store import migrate as run_migrations  # noqa: PLC0415

    settings = load_settings(data_dir=data_dir)
    try:
        if settings.database_url is None:
            check_folders(settings)
        run_migrations(settings.resolved_database_url)
    except PolyheadError as error:
        fail(str(error), code=2)


@app.command()
def openapi() -> None:
    """Print the OpenAPI schema as JSON."""
    import json  # noqa: PLC0415

    from service.app import openapi_schema  # noqa: PLC0415

    sys.stdout.write(json.dumps(openapi_schema(), indent=2, ensure_ascii=False) + "\n")


app.command("bulk-embed")(bulk.bulk_embed)
app.command()(commands.push)
app.command()(commands.predict)
app.command()(backups.backup)
app.command()(backups.restore)
app.command()(backups.verify)

key = typer.Typer(help="API keys: who may ask, and for what.", no_args_is_help=True)
app.add_typer(key, name="key")


class ScopeName(StrEnum):
    """Those of `service.store.records`, which `--help` does without."""

    PREDICT = "predict"
    TRAIN = "train"
    ADMIN = "admin"
    METRICS = "metrics"


@key.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="What it is for, as lists and nothing else show it.")],
    scope: Annotated[
        list[ScopeName],
        typer.Option(help="What it may do; repeatable. train includes predict, admin includes both."),
    ],
    *,
    tenant: Annotated[str, typer.Option(help="Whose things it reaches, and no others'.")] = "default",
    requests_per_minute: Annotated[
        int | None,
        typer.Option(
            min=1, max=10**6, help="Of one HTTP process; default: POLYHEAD_KEY_REQUESTS_PER_MINUTE."
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Keep the key in this file (-: standard input); one that is there already stays."
        ),
    ] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Make a key and print it, this once: it can't be shown again."""
    from service import administration  # noqa: PLC0415

    with _administering(data_dir) as settings:
        token, kept = administration.create(
            settings,
            name=name,
            scopes=scope,
            tenant=tenant,
            requests_per_minute=requests_per_minute,
            source=source,
        )
        if kept is None:
            sys.stderr.write(f"{token.id} is there already and stays as it is\n")
        elif as_json:
            said = administration.shown(kept, (kept.pepper,))
            administration.print_json(said if source else said | {"key": token.text})
        elif source is None:
            sys.stdout.write(f"{token.text}\n")


@key.command("list")
def list_keys(*, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """List all keys, without their secrets: scopes, tenant, when they were last used, whether revoked."""
    from service import administration  # noqa: PLC0415

    with _administering(data_dir) as settings:
        administration.print_keys(administration.list_all(settings), as_json=as_json)


@key.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="key_…, as the list has it.")],
    *,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """End a key for good. Every server refuses it within a second."""
    from service import administration  # noqa: PLC0415

    with _administering(data_dir) as settings:
        said = administration.revoke(settings, key_id)
        if as_json:
            administration.print_json(said)
        else:
            sys.stdout.write(f"{said['id']} ({said['name']}) is revoked since {said['revoked_at']}\n")


backbone = typer.Typer(
    help="The backbone that is served, and one that is to follow it.", no_args_is_help=True
)
app.add_typer(backbone, name="backbone")
backbone.command()(preparing.prepare)


@contextmanager
def _administering(data_dir: Path | None) -> "Iterator[Settings]":
    """The settings for a command on the store, whose trouble is one line and exit code 2."""
    from models.errors import PolyheadError  # noqa: PLC0415
    from service.telemetry import configure_logging  # noqa: PLC0415

    settings = load_settings(data_dir=data_dir)
    configure_logging(settings.log_level, "key")
    try:
        yield settings
    except PolyheadError as error:
        fail(str(error), code=2)


def main() -> None:
    import_from_working_folder()
    app()


if __name__ == "__main__":
    main()
