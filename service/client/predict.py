"""`polyhead predict`: files in, one line a file out."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from service.client.api import Client, Json, Refused, describe_problem, task_path
from service.client.upload import ITEM_CODES

BATCH = 32  # photos in one request


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictOptions:
    files: Sequence[Path]
    task: str
    version: int | None
    alias: str | None
    top_k: int | None
    as_json: bool


def predict(client: Client, options: PredictOptions, console: Console) -> bool:
    """Predict all files and print what each shows; False where one of them failed."""
    answers = list(predict_files(client, options))
    if options.as_json:
        print(json.dumps({"task": options.task, "predictions": answers}, indent=2, ensure_ascii=False))  # noqa: T201
    else:
        console.print(table_of(answers))
    return not any("error" in answer for answer in answers)


def predict_files(client: Client, options: PredictOptions) -> Iterator[Json]:
    """`{file, version, …prediction}` or `{file, error}` for each file, in order."""
    asked = {"version": options.version, "alias": options.alias, "top_k": options.top_k}
    parameters = {name: value for name, value in asked.items() if value is not None}
    for start in range(0, len(options.files), BATCH):
        yield from predict_batch(client, options.task, options.files[start : start + BATCH], parameters)


def predict_batch(client: Client, task: str, files: Sequence[Path], parameters: Json) -> list[Json]:
    """One request; refused for its images as a whole, one request a file, so that each gets its reason."""
    loaded = [read(path) for path in files]
    readable = [(path, data) for path, data in zip(files, loaded, strict=True) if isinstance(data, bytes)]
    answers = iter(ask(client, task, readable, parameters)) if readable else iter(())
    return [
        {"file": str(path)} | (next(answers) if isinstance(data, bytes) else data)
        for path, data in zip(files, loaded, strict=True)
    ]


def read(path: Path) -> bytes | Json:
    try:
        return path.read_bytes()
    except OSError as unreadable:
        return {"error": {"code": "unreadable_file", "detail": unreadable.strerror or str(unreadable)}}


def ask(client: Client, task: str, loaded: Sequence[tuple[Path, bytes]], parameters: Json) -> list[Json]:
    parts = [("file", (path.name, data)) for path, data in loaded]
    try:
        answer = client.post(task_path(task, "predict"), files=parts, params=parameters)
    except Refused as refused:
        if refused.code not in ITEM_CODES:
            raise
        if len(loaded) == 1:
            return [{"error": dict(refused.problem)}]
        return [ask(client, task, [one], parameters)[0] for one in loaded]
    return [{"version": answer["version"]} | item for item in answer["predictions"]]


def table_of(answers: Sequence[Json]) -> Table:
    table = Table()
    table.add_column("file", overflow="fold")
    table.add_column("prediction", overflow="fold")
    table.add_column("score", justify="right")
    table.add_column("version", justify="right")
    for answer in answers:
        if "error" in answer:
            table.add_row(answer["file"], Text(describe_problem(answer["error"]), "red"), "", "")
        else:
            table.add_row(answer["file"], *shown(answer), str(answer["version"]))
    return table


def shown(prediction: Json) -> tuple[str, str]:
    """What is predicted and how sure, for each of the three kinds."""
    if "value" in prediction:
        return f"{prediction['value']:.6g}", ""
    scores = {score["label"]: score["score"] for score in prediction["scores"]}
    if "labels" in prediction:
        labels = prediction["labels"]
        return ", ".join(labels) or "none", ", ".join(
            f"{scores[label]:.4f}" for label in labels if label in scores
        )
    label = prediction["label"]
    return "unsure" if label is None else label, f"{prediction['score']:.4f}"
