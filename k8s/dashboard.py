"""The Grafana dashboard: what its queries name is what the service counts, and all of that is shown."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from k8s.alerts import ADDED, series
from k8s.objects import Object, of_kind

LABEL = "grafana_dashboard"
ENDINGS = ("_total", "_bucket", "_sum", "_count")
SELECTOR = re.compile(r"\b(polyhead_\w+)(?:\{([^}]*)\})?")
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


@dataclass(frozen=True, slots=True)
class Query:
    """One line of a panel, in PromQL with Grafana's variables."""

    panel: str
    expression: str


def queries(dashboard: Object) -> Iterator[Query]:
    """All of them, in order; a row that is folded in holds panels of its own."""
    for panel in dashboard.get("panels", []):
        yield from queries(panel)
        yield from (Query(panel["title"], target["expr"]) for target in panel.get("targets", []))


def check_dashboards(objects: Sequence[Object]) -> Iterator[str]:
    for name, each in of_kind(objects, "ConfigMap"):
        if LABEL in each["metadata"].get("labels", {}):
            for file, text in each["data"].items():
                yield from (f"{name}, {file}: {problem}" for problem in _problems(text))


def _problems(text: str) -> Iterator[str]:
    try:
        said = list(queries(json.loads(text)))
    except json.JSONDecodeError as error:
        yield f"no JSON: {error}"
        return
    for query in said:
        yield from (f"{query.panel}: {each}" for each in _unknown(query.expression))
    shown = {_base(name) for query in said for name in re.findall(r"\bpolyhead_\w+", query.expression)}
    yield from (f"no panel shows {name}" for name in sorted({_base(name) for name in series()} - shown))


def _unknown(expression: str) -> Iterator[str]:
    """Metrics and labels that no scrape has."""
    bare = STRING.sub('""', expression)  # a regular expression may hold braces
    grouped = {label for labels in re.findall(r"\bby \(([^)]*)\)", bare) for label in labels.split(", ")}
    for name, selector in SELECTOR.findall(bare):
        if name not in series():
            yield f"there is no metric {name}"
            continue
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector)) | grouped
        yield from (f"{name} has no label {label}" for label in sorted(labels - series()[name] - ADDED))


def _base(name: str) -> str:
    """The metric that a series is of."""
    ending = next((each for each in ENDINGS if name.endswith(each)), "")
    return name.removesuffix(ending)
