"""The alert rules, and every metric that a manifest names."""

import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import yaml
from prometheus_client import Counter, Gauge, Histogram

import service.metrics
from k8s.objects import Object, of_kind
from k8s.tools import ROOT, promtool

TESTS = "alerts.test.yaml"
RUNBOOKS = ROOT / "docs" / "runbooks.md"
ADDED = {"namespace", "pod"}  # labels that Prometheus puts on what it scrapes


def check_alerts(objects: Sequence[Object], monitoring: Path, adapter: Object) -> Iterator[str]:
    """Args:
    monitoring: the folder with the tests of the rules.
    adapter: the values of prometheus-adapter.
    """
    for name, rule in of_kind(objects, "PrometheusRule"):
        rules = [each for group in rule["spec"]["groups"] for each in group["rules"]]
        yield from (f"{name}: {each}" for each in _promtool(yaml.safe_dump(rule["spec"]), monitoring))
        yield from (f"{name}: {each}" for each in _names(rules))
        yield from (f"{name}: {each}" for each in _runbooks(rules))
        yield from (f"{TESTS}: {each}" for each in _tests(rules, monitoring))
    adapted = {rule["name"]["as"]: rule["seriesQuery"] for rule in adapter["rules"]["custom"]}
    yield from (f"prometheus-adapter: {each}" for query in adapted.values() for each in _unknown(query))
    for name, scaler in of_kind(objects, "HorizontalPodAutoscaler"):
        for metric in scaler["spec"]["metrics"]:
            wanted = metric.get("pods", {}).get("metric", {}).get("name")
            if wanted is not None and wanted not in adapted:
                yield f"{name}: nothing brings {wanted} to it"


@cache
def _promtool(rules_text: str, monitoring: Path) -> tuple[str, ...]:
    """Once for what several overlays share: it takes seconds."""
    problems = []
    with tempfile.TemporaryDirectory(prefix="polyhead-k8s-") as folder:
        rules, tests = Path(folder) / "rules.yaml", Path(folder) / TESTS
        rules.write_text(rules_text, "utf-8")
        tests.write_bytes((monitoring / TESTS).read_bytes())
        for verb, file in (("check", rules), ("test", tests)):
            done = subprocess.run(
                [promtool(), verb, "rules", file], capture_output=True, text=True, check=False
            )
            if done.returncode:
                problems.append(f"promtool: {done.stdout}{done.stderr}")
    return tuple(problems)


def _names(rules: Sequence[Object]) -> Iterator[str]:
    recorded = {rule["record"] for rule in rules if "record" in rule}
    for rule in rules:
        yield from _unknown(rule["expr"])
        for name in sorted(set(re.findall(r"\bpolyhead:[\w:]+", rule["expr"])) - recorded):
            yield f"nothing records {name}"


def _unknown(expression: str) -> Iterator[str]:
    for name in sorted(set(re.findall(r"\bpolyhead_\w+", expression)) - set(series())):
        yield f"there is no metric {name}"


def _runbooks(rules: Sequence[Object]) -> Iterator[str]:
    headings = {
        line.lstrip("# ").lower() for line in RUNBOOKS.read_text("utf-8").splitlines() if line.startswith("#")
    }
    for rule in rules:
        if "alert" in rule:
            anchor = rule["alert"].lower()
            if rule.get("annotations", {}).get("runbook") != f"docs/runbooks.md#{anchor}":
                yield f"{rule['alert']} names no runbook"
            if anchor not in headings:
                yield f"{rule['alert']} has no heading in docs/runbooks.md"


def _tests(rules: Sequence[Object], monitoring: Path) -> Iterator[str]:
    """Every alert fires once and is silent once, on series that the service could have written."""
    said = yaml.safe_load((monitoring / TESTS).read_text("utf-8"))["tests"]
    outcomes = {
        (each["alertname"], bool(each["exp_alerts"])) for test in said for each in test["alert_rule_test"]
    }
    for rule in rules:
        if "alert" in rule:
            yield from (
                f"{rule['alert']} is never tested {'firing' if fires else 'silent'}"
                for fires in (True, False)
                if (rule["alert"], fires) not in outcomes
            )
    for test in said:
        for entry in test["input_series"]:
            name, _, selector = entry["series"].partition("{")
            labels = set(re.findall(r"(\w+)=", selector))
            if labels - ADDED != set(series().get(name, {"no such metric"})):
                yield f"the service writes no {entry['series']}"


def series() -> Mapping[str, frozenset[str]]:
    """What /metrics may show: names, each with its labels."""
    found: dict[str, frozenset[str]] = {}
    for metric in vars(service.metrics).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            name, labels = metric._name, frozenset(metric._labelnames)  # noqa: SLF001 - it says them nowhere else
            endings = {Counter: ("_total",), Gauge: ("",), Histogram: ("_bucket", "_sum", "_count")}[
                type(metric)
            ]
            for ending in endings:
                found[name + ending] = labels | {"le"} if ending == "_bucket" else labels
    return found
