"""Every query of the dashboard, put to a real Prometheus that scrapes a real server at work."""

import json
import math
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from k8s.check import FOLDER, MONITORING
from k8s.dashboard import Query, queries
from k8s.tools import prometheus
from tests.integration.routes.photos import files, photo
from tests.servers import Server, free_port, serving

pytestmark = pytest.mark.timeout(900)  # the first one fetches Prometheus

DASHBOARD = json.loads((FOLDER / MONITORING / "dashboard.json").read_text("utf-8"))
# What Grafana puts in. The labels are those that the Prometheus operator gives to a pod's series.
VARIABLES = {"$namespace": "polyhead", "$pod": ".*", "$__rate_interval": "30s"}
LABELS = {"namespace": "polyhead", "pod": "polyhead-0"}
WITHIN_S = 120.0


@dataclass(frozen=True, slots=True)
class Asked:
    """A Prometheus, and the server that it scrapes."""

    prometheus: httpx.Client
    server: Server

    def numbers(self, expression: str) -> list[float]:
        """The finite numbers that a query gives now. Raises: AssertionError: Prometheus can't read it."""
        for variable, value in VARIABLES.items():
            expression = expression.replace(variable, value)
        assert "$" not in expression
        answer = self.prometheus.get("/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", f"{expression}: {answer.get('error')}"
        found = [float(each["value"][1]) for each in answer["data"]["result"]]
        return [number for number in found if math.isfinite(number)]


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    """Its task is trained, and its trainer was killed once."""
    folder = tmp_path_factory.mktemp("server")
    with serving(folder, embedding_cache_bytes=str(2**20)) as server, server.client() as client:
        client.post("/v1/tasks", json={"name": "colours", "kind": "multiclass"})
        for label in ("red", "blue"):
            sent = files(*(photo(label, number) for number in range(4)))
            client.post("/v1/tasks/colours/examples", files=sent, data={"label": label})
        run = client.post("/v1/tasks/colours/runs", json={}, headers={"Prefer": "wait=60"}, timeout=90)
        assert run.json()["state"] == "succeeded", run.text
        os.kill(trainer := server.pid_of("polyhead-train"), signal.SIGKILL)
        server.wait_for("polyhead-train", other_than=trainer)
        yield server


@pytest.fixture(scope="module")
def asked(server, tmp_path_factory) -> Iterator[Asked]:
    folder = tmp_path_factory.mktemp("prometheus")
    target = {"targets": [server.url.removeprefix("http://")], "labels": LABELS}
    config = {
        "global": {"scrape_interval": "2s", "scrape_timeout": "2s"},
        "scrape_configs": [{"job_name": "polyhead", "static_configs": [target]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config), "utf-8")  # which is YAML too
    address = f"127.0.0.1:{free_port()}"
    with subprocess.Popen(
        [
            prometheus(),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            with httpx.Client(base_url=f"http://{address}", timeout=30) as client:
                wait_until_ready(client, process, folder)
                yield Asked(client, server)
        finally:
            process.kill()


def wait_until_ready(client: httpx.Client, process: "subprocess.Popen[bytes]", folder: Path) -> None:
    end = time.monotonic() + WITHIN_S
    while time.monotonic() < end:
        assert process.poll() is None, f"Prometheus ended; its data is in {folder}"
        try:
            if client.get("/-/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError("Prometheus is not ready")


@pytest.fixture(scope="module")
def silent(asked) -> list[Query]:
    """The queries that give no number, though the server is at work and was scraped more than once."""
    left = list(queries(DASHBOARD))
    end = time.monotonic() + WITHIN_S
    number = 0
    while left and time.monotonic() < end:
        number += 1
        with asked.server.client() as client:
            for image in (photo("red", 1000 + number), photo("red", 1000)):
                answer = client.post("/v1/tasks/colours/predict", files=files(image))
                assert answer.status_code == 200, answer.text
        time.sleep(0.5)
        left = [query for query in left if not asked.numbers(query.expression)]
    return left


@pytest.mark.parametrize(
    "query", list(queries(DASHBOARD)), ids=lambda query: f"{query.panel}: {query.expression}"
)
def test_a_query_gives_a_number_while_the_server_is_at_work(silent, query):
    assert query not in silent


@pytest.mark.parametrize(
    "variable",
    [each for each in DASHBOARD["templating"]["list"] if each["type"] == "query"],
    ids=lambda variable: variable["name"],
)
def test_a_variable_has_the_values_of_what_is_scraped(asked, silent, variable):
    selector, label = variable["query"].removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
    selector = selector.replace("$namespace", VARIABLES["$namespace"])
    answer = asked.prometheus.get(f"/api/v1/label/{label}/values", params={"match[]": selector})
    assert answer.json()["data"] == [LABELS[label]]


@pytest.mark.parametrize(
    "expression",
    [
        "sum(rate(polyhead_refusals_total[$__rate_interval]))",
        'sum by (le) (rate(polyhead_stage_seconds_bucket{stage="encode"}[$__rate_interval]))',
        'polyhead_queued_images{namespace="$namespace",pod="another"}',
    ],
    ids=["no such metric", "no such stage", "no such pod"],
)
def test_a_query_of_what_is_not_there_gives_none(asked, silent, expression):
    """So that the tests above can fail."""
    assert asked.numbers(expression) == []


def test_hits_are_seen_as_they_were_made(asked, silent):
    """Every second image of the load had been sent before."""
    (query,) = [each for each in queries(DASHBOARD) if each.panel == "Known embeddings: share of hits"]
    (share,) = asked.numbers(query.expression)
    assert 0.3 < share < 0.7
