"""The command line of `bulk-embed`; its imports wait till it runs: `--help` stays light."""

import os
import signal
import sys
from typing import Annotated

import typer

from service.command import load_settings


def bulk_embed(
    source: Annotated[
        str, typer.Argument(help="Folder of images, or URL: s3://bucket/prefix, gs://…, az://…, file:///….")
    ],
    destination: Annotated[
        str, typer.Argument(help="Folder or URL of the Parquet files: new, empty, or of an earlier run.")
    ],
    *,
    images_per_file: Annotated[
        int, typer.Option(min=1, max=100_000, help="Images in one file, on average; twice as many at most.")
    ] = 1000,
    any_name: Annotated[
        bool, typer.Option("--any-name", help="Take all files, not only .jpg, .jpeg, .png and .webp.")
    ] = False,
    actors: Annotated[
        int | None, typer.Option(min=1, help="Backbones at work; default: as many as there are cores for.")
    ] = None,
    cpus_per_actor: Annotated[int, typer.Option(min=1, help="Cores of each.")] = 2,
    gpus_per_actor: Annotated[
        float, typer.Option(min=0, help="GPUs of each, or a share of one; without, it runs on the CPU.")
    ] = 0.0,
    address: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_ADDRESS",
            help="Of a Ray cluster; default: one of its own on this machine, ended after it.",
        ),
    ] = None,
) -> None:
    """Embed every image of a bucket into Parquet files, on Ray Data.

    Rows: path, sha256 of the bytes, embedding (float32), error (null, or why there is no embedding).
    The backbone's name and digest are in each file's schema. The embeddings are those of /v1/embeddings;
    backbone, sizes and limits are the same settings POLYHEAD_….

    Run it again to go on after an interruption, or when images were added, changed or deleted: files that are
    there and still right stay, the others are made anew or deleted.

    Exit code 0: all done; 1: some files could not be made; 2: nothing could; 130: interrupted.
    """
    from rich.console import Console  # noqa: PLC0415 - see the module's docstring, here and below

    from models.errors import PolyheadError  # noqa: PLC0415
    from service.bulk.run import BulkOptions  # noqa: PLC0415
    from service.bulk.run import bulk_embed as run_bulk_embed  # noqa: PLC0415
    from service.telemetry import configure_logging  # noqa: PLC0415

    settings = load_settings()
    configure_logging(settings.log_level, "bulk-embed")
    options = BulkOptions(
        source=source,
        destination=destination,
        images_per_file=images_per_file,
        any_name=any_name,
        actors=actors,
        cpus_per_actor=cpus_per_actor,
        gpus_per_actor=gpus_per_actor,
        address=address,
    )
    console = Console(stderr=True, markup=False, highlight=False, emoji=False)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start without
    try:
        sys.exit(0 if run_bulk_embed(settings, options, console) else 1)
    except PolyheadError as error:
        said, code = " ".join(str(error).split()), 2
    except KeyboardInterrupt:
        said, code = "interrupted: the files that were made stay; run it again to go on", 130
    sys.stderr.write(f"polyhead: {said}\n")
    sys.stderr.flush()
    # At once, and not by sys.exit: a Ray that is still at work would end this process with a code of its own.
    os._exit(code)
