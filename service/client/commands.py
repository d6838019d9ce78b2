"""The command line of `push` and `predict`; their imports wait till they run: `--help` stays light."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

URL = "http://127.0.0.1:8000"

Task = Annotated[str, typer.Option("--task", help="Name of the task.")]
Url = Annotated[str, typer.Option("--url", envvar="POLYHEAD_URL", help="Where the service listens.")]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="POLYHEAD_API_KEY",
        help="Key, where the service asks for one. Others on this machine see options, not variables.",
    ),
]
Timeout = Annotated[
    float, typer.Option(min=1, help="Seconds that one request may take, an overloaded server waited out.")
]


def push(
    source: Annotated[Path, typer.Argument(metavar="DIR|ARCHIVE", help="Photos, in one of the layouts.")],
    *,
    task: Task,
    url: Url = URL,
    api_key: ApiKey = None,
    kind: Annotated[
        Literal["multiclass", "multilabel", "regression"] | None,
        typer.Option(help="Of a task that is created; default: as the labels suggest."),
    ] = None,
    train: Annotated[bool, typer.Option(help="Train after the upload and print the report.")] = False,
    strategy: Annotated[str, typer.Option(help="How to train.")] = "head",
    publish: Annotated[
        Literal["first", "if_better", "always", "never"], typer.Option(help="When the new version is served.")
    ] = "first",
    batch: Annotated[int, typer.Option(min=1, max=256, help="Photos in one request.")] = 64,
    timeout: Timeout = 120.0,
) -> None:
    """Upload labelled photos, and train on them if asked.

    Layouts of a folder, a zip or a tar:

    - class/x.jpg

    - train|validation|test/class/x.jpg

    - metadata.csv or .jsonl with file_name, label|labels|value, group, split

    Run it again at will: what is there already stays.
    """
    from service.client.push import PushOptions  # noqa: PLC0415
    from service.client.push import push as run_push  # noqa: PLC0415
    from service.client.terminal import run_command  # noqa: PLC0415

    options = PushOptions(
        source=source, task=task, kind=kind, train=train, strategy=strategy, publish=publish, batch=batch
    )
    sys.exit(run_command(url, api_key, timeout, lambda client, console: run_push(client, options, console)))


def predict(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Photos.")],
    *,
    task: Task,
    url: Url = URL,
    api_key: ApiKey = None,
    version: Annotated[int | None, typer.Option(min=1, help="Exact version.")] = None,
    alias: Annotated[str | None, typer.Option(help="Alias; default: production.")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Best labels to give, in --json.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    timeout: Timeout = 120.0,
) -> None:
    """Say what each photo shows."""
    from service.client.predict import PredictOptions  # noqa: PLC0415
    from service.client.predict import predict as run_predict  # noqa: PLC0415
    from service.client.terminal import run_command  # noqa: PLC0415

    if version is not None and alias is not None:
        raise typer.BadParameter("give --version or --alias, not both")
    options = PredictOptions(
        files=files, task=task, version=version, alias=alias, top_k=top_k, as_json=as_json
    )
    sys.exit(
        run_command(url, api_key, timeout, lambda client, console: run_predict(client, options, console))
    )
