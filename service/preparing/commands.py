"""The command line of `backbone prepare`; imports wait till it runs: `--help` stays light."""

import signal
import sys
import threading
from math import isfinite
from pathlib import Path
from typing import Annotated

import typer

from service.command import AsJson, DataDir, fail, load_settings


def prepare(
    name: Annotated[
        str, typer.Argument(help="The new backbone: a timm name, or package.module:factory.", metavar="NAME")
    ],
    *,
    weights: Annotated[
        Path | None, typer.Option(help="Its local weights; default: the package or the hub.")
    ] = None,
    input_size: Annotated[int | None, typer.Option(help="Its pixels; default: POLYHEAD_INPUT_SIZE.")] = None,
    crop_pct: Annotated[float | None, typer.Option(help="Its crop; default: POLYHEAD_CROP_PCT.")] = None,
    precision: Annotated[str | None, typer.Option(help="Its precision; default: POLYHEAD_PRECISION.")] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Most that a held-out score may fall: of accuracy or mean average precision (0-1), or of a "
            "regression's error as a share of its targets' standard deviation.",
        ),
    ] = 0.01,
    task: Annotated[list[str] | None, typer.Option(help="Only this task; repeatable. Default: all.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's; default: all.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")
    ] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Train what is served on another backbone, beside the servers, and publish it for servers of that.

    The settings POLYHEAD_… are those of the servers that run, which go on as they are. Every version behind
    an alias is trained again by its own recipe, on the same splits, and held against the old one on the
    examples that both were tested on. Those within the tolerance are published under the new backbone's
    digest, where only its servers look.

    Run it again to go on after an interruption, to catch up with what was published or uploaded since, or
    with another tolerance: what is done is not done again.

    Exit code 0: all are published; 1: some are not; 2: nothing could be done; 130: interrupted.
    """
    from models.errors import PolyheadError  # noqa: PLC0415 - see the module's docstring, here and below
    from service.administration import print_json  # noqa: PLC0415
    from service.preparing import report  # noqa: PLC0415
    from service.preparing.run import PrepareOptions  # noqa: PLC0415
    from service.preparing.run import prepare as run_preparation  # noqa: PLC0415
    from service.telemetry import configure_logging  # noqa: PLC0415
    from service.trainer.lease import Stopping  # noqa: PLC0415

    settings = load_settings(data_dir=data_dir)
    new = load_settings(
        data_dir=data_dir, backbone=name, input_size=input_size, crop_pct=crop_pct, precision=precision
    )
    if not isfinite(tolerance):  # which no range refuses
        raise typer.BadParameter("not a number", param_hint="--tolerance")
    configure_logging(settings.log_level, "prepare")
    stop = _set_by_signals()
    options = PrepareOptions(tolerance=tolerance, tasks=tuple(task or ()), tenant=tenant, dry_run=dry_run)
    try:
        # The old network's file of weights is not the new one's.
        new = new.model_copy(update={"weights": weights})
        done = run_preparation(settings, new, options, stop, lambda line: sys.stderr.write(f"{line}\n"))
    except PolyheadError as error:
        fail(" ".join(str(error).split()), code=2)
    except Stopping:
        fail("interrupted before anything was done", code=130)
    if as_json:
        print_json(report.as_json(done))
    else:
        report.print_report(done)
    sys.exit(130 if done.interrupted else 0 if done.well else 1)


def _set_by_signals() -> threading.Event:
    """Set by Ctrl-C or SIGTERM, so that what is in work ends in order."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop
