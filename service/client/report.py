"""A version's evidence as tables: scores on test, each class, the confusion matrix, what was published."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

Json = Mapping[str, Any]

LARGEST_MATRIX = 20  # classes; beyond it a confusion matrix no longer fits a terminal
MOST_CONFUSED = 10  # pairs listed instead

OVERALL = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "log_loss": "log loss",
    "mean_average_precision": "mean average precision",
    "subset_accuracy": "all labels right",
    "mae": "mean absolute error",
    "rmse": "root mean square error",
    "r2": "R²",
}
PER_CLASS = {
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "average_precision": "average precision",
    "support": "support",
}


def report(version: Json, run: Json | None = None) -> RenderableType:
    """Everything a version's report says, for the terminal."""
    metrics = version["metrics"]
    parts: list[RenderableType] = [
        headline(version),
        *climb(version),
        Text(f"Scored on {scored_on(version)}"),
        overall(metrics),
    ]
    if metrics.get("per_class"):
        parts.append(per_class(metrics["per_class"]))
    if metrics.get("confusion_matrix"):
        parts.extend(confusion(metrics["confusion_matrix"]))
    parts.extend(Text(f"warning: {warning}", "yellow") for warning in warnings_of(version))
    if run is not None:
        parts.append(published(run))
    return Group(*parts)


def headline(version: Json) -> Text:
    trained, total = version["trainable_parameters"], version["total_parameters"]
    return Text.assemble(
        ("Version ", "bold"),
        (str(version["version"]), "bold cyan"),
        f", strategy {version['strategy']}: {trained:,} of {total:,} parameters trained",
    )


def climb(version: Json) -> Iterator[RenderableType]:
    """Of strategy auto: the rule that fired, and what became of each strategy."""
    auto = (version.get("decision") or {}).get("auto")
    if not auto:
        return
    yield Text.assemble("It chose ", (str(auto["chosen"]), "bold"), f". {auto['rule']['because']}")
    table = Table()
    table.add_column("strategy")
    for name in ("validation", "95 %", "seconds"):
        table.add_column(name, justify="right")
    table.add_column("why")
    for tried in auto["candidates"]:
        measured = tried.get("validation") or {}
        low_high = measured.get("interval")
        table.add_row(
            str(tried["rung"]),
            figure(measured.get("score")),
            f"{figure(low_high[0])} - {figure(low_high[1])}" if low_high else "-",
            f"{tried['seconds']:.1f}" if "seconds" in tried else "-",
            str(tried["why"]),
        )
    yield table


def overall(metrics: Json) -> Table:
    table = Table(show_header=False)
    table.add_column("metric")
    table.add_column("value", justify="right")
    for key, name in OVERALL.items():
        if metrics.get(key) is not None:
            table.add_row(name, figure(metrics[key]))
    return table


def per_class(rows: Sequence[Json]) -> Table:
    table = Table()
    columns = [key for key in PER_CLASS if any(row.get(key) is not None for row in rows)]
    table.add_column("class")
    for key in columns:
        table.add_column(PER_CLASS[key], justify="right")
    for row in rows:
        table.add_row(str(row["label"]), *(figure(row.get(key)) for key in columns))
    return table


def confusion(matrix: Json) -> Iterator[RenderableType]:
    """Rows are the truth, columns the prediction; for many classes the most confused pairs instead."""
    labels: list[str] = list(matrix["labels"])
    counts: list[list[int]] = matrix["counts"]
    if len(labels) > LARGEST_MATRIX:
        yield Text("Most confused:")
        yield confused_pairs(labels, counts)
        return
    yield Text("Confusion matrix (rows: truth, columns: prediction):")
    table = Table()
    table.add_column("")
    for label in labels:
        table.add_column(label, justify="right")
    for i, label in enumerate(labels):
        cells = (
            Text(str(count), "green" if i == j else "red" if count else "dim")
            for j, count in enumerate(counts[i])
        )
        table.add_row(label, *cells)
    yield table


def confused_pairs(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> Table:
    table = Table()
    table.add_column("truth")
    table.add_column("predicted as")
    table.add_column("times", justify="right")
    pairs = [
        (count, labels[i], labels[j])
        for i, row in enumerate(counts)
        for j, count in enumerate(row)
        if i != j and count
    ]
    for count, truth, predicted in sorted(pairs, key=lambda pair: -pair[0])[:MOST_CONFUSED]:
        table.add_row(truth, predicted, str(count))
    return table


def published(run: Json) -> Text:
    reason = run.get("published_reason")
    because = f" ({reason})" if reason else ""
    if run.get("published"):
        return Text(f"Published: version {run['version']} is production now{because}", "green")
    return Text(f"Not published: production stays as it is{because}", "yellow")


def scored_on(version: Json) -> str:
    count = version["metrics"].get("count")
    examples = "examples" if count is None else f"{count} examples"
    if version["evaluation"] == "out_of_fold":
        return f"{examples}, each by a head that never saw it (out of fold)"
    return f"{examples} of test, used for nothing else"


def warnings_of(version: Json) -> Iterator[str]:
    decision = version.get("decision") or {}
    yield from decision.get("warnings") or ()


def figure(value: float | None) -> str:
    """Counts as they are, fractions with four digits."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
