"""What the autoscalers look at is what they are meant to look at."""

import re

import sqlalchemy as sa

from service.app import openapi_schema
from service.store import open_store
from tests.integration.store.values import TENANT, new_run
from tests.k8s.mistakes import Objects
from tests.stores import on_a_cluster


@on_a_cluster
def test_trainers_are_scaled_by_the_runs_that_are_queued_or_running(scale_out, pair):
    (trigger,) = Objects(scale_out).spec("ScaledObject/polyhead-trainer")["triggers"]
    with pair.database() as url:
        store = open_store(url, pair.blobs())
        for name in ("ended", "running", "queued"):
            store.runs.create(
                TENANT, new_run(store.tasks.create(TENANT, name, "multiclass", now=1.0)), now=1.0
            )
            if name != "queued":
                run = store.runs.claim(60, 3)
            if name == "ended":
                store.runs.finish(run.id, run.attempt, "failed")
        with store.database.read() as connection:
            assert connection.execute(sa.text(trigger["metadata"]["query"])).scalar_one() == 2
        store.close()


def test_the_objective_of_predictions_is_measured_on_the_predict_routes(scale_out):
    selectors = {
        selector
        for rule in Objects(scale_out).rules()
        if ":predict_slow:" in rule.get("record", "")
        for selector in re.findall(r'route=~"([^"]+)"', rule["expr"])
    }
    (selector,) = selectors
    routes = [route for route in openapi_schema()["paths"] if re.fullmatch(selector, route)]
    assert routes == ["/v1/tasks/{task}/predict", "/v1/predict"]
