"""Runs: planned, queued, reused, waited for, followed, cancelled."""

import threading
import time
from dataclasses import replace

import pytest

from service.schemas.runs import CreateRun
from service.store.aliases import Aliases
from service.web.planning import plan, queue
from tests.integration.routes.photos import files, photo


def test_a_training_makes_a_version_and_publishes_it(client, service, taught):
    answer = client.post(f"/v1/tasks/{taught}/runs", json={})
    assert answer.status_code == 202
    assert answer.headers["Retry-After"] == "1"
    run = answer.json()
    assert (run["task"], run["kind"], run["state"]) == (taught, "train", "queued")
    options = {"seed": 0, "solver": "exact", "l2": None, "class_weight": "auto"}
    assert (run["strategy"], run["options"], run["publish"]) == ("head", options, "first")
    assert client.get(f"/v1/tasks/{taught}").json()["active_run"] == run["id"]
    service.work()
    ended = client.get(answer.headers["Location"]).json()
    assert (ended["state"], ended["version"], ended["published"]) == ("succeeded", 1, True)
    assert ended["finished_at"] >= ended["started_at"] >= ended["created_at"]
    task = client.get(f"/v1/tasks/{taught}").json()
    assert (task["production"], task["needs_training"], task["active_run"]) == (1, False, None)


def test_two_runs_on_one_task_conflict_and_the_active_one_is_named(client, taught):
    active = client.post(f"/v1/tasks/{taught}/runs", json={}).json()["id"]
    before = client.get(f"/v1/tasks/{taught}").json()
    answer = client.post(f"/v1/tasks/{taught}/runs", json={"force": True})
    assert (answer.status_code, answer.json()["code"], answer.json()["run"]) == (409, "run_active", active)
    assert client.get(f"/v1/tasks/{taught}").json() == before
    client.post(f"/v1/runs/{active}/cancel")


def test_nothing_new_means_the_same_version(client, trained):
    answer = client.post(f"/v1/tasks/{trained}/runs", json={})
    assert answer.status_code == 200
    run = answer.json()
    assert (run["state"], run["version"], run["reused"]) == ("succeeded", 1, True)
    assert client.get(answer.headers["Location"]).json() == run


def test_force_trains_again(client, trained, train):
    assert train(trained, force=True)["version"] == 2


def test_other_options_train_again(client, trained, train):
    assert train(trained, seed=7)["version"] == 2


def test_a_new_example_trains_again(client, trained, train):
    client.post(f"/v1/tasks/{trained}/examples", files=files(photo("red", 70)), data={"label": "red"})
    assert client.get(f"/v1/tasks/{trained}").json()["needs_training"] is True
    run = train(trained)
    assert (run["version"], run["published"]) == (2, False)
    assert "version 1" in run["published_reason"]


@pytest.mark.parametrize(
    ("policy", "production"), [("first", 2), ("if_better", 2), ("never", 2), ("always", 1)]
)
def test_a_reused_version_is_published_only_by_always(client, trained, train, policy, production):
    train(trained, seed=1, publish="always")
    answer = client.post(f"/v1/tasks/{trained}/runs", json={"publish": policy}).json()
    assert (answer["version"], answer["reused"], answer["published"]) == (1, True, policy == "always")
    assert client.get(f"/v1/tasks/{trained}").json()["production"] == production


def test_a_reused_version_is_published_where_there_is_none(client, taught, train):
    train(taught, publish="never")
    assert client.get(f"/v1/tasks/{taught}").json()["production"] is None
    answer = client.post(f"/v1/tasks/{taught}/runs", json={"publish": "first"}).json()
    assert (answer["reused"], answer["published"]) == (True, True)
    assert client.get(f"/v1/tasks/{taught}").json()["production"] == 1


def test_a_pinned_alias_stays_even_for_always(client, trained, train):
    train(trained, seed=1)
    client.put(f"/v1/tasks/{trained}/aliases/production", json={"version": 2, "pinned": True})
    answer = client.post(f"/v1/tasks/{trained}/runs", json={"publish": "always"}).json()
    assert answer["published"] is False
    assert client.get(f"/v1/tasks/{trained}").json()["production"] == 2


class PinnedAtOnce(Aliases):
    """Somebody pins `production` between a look at it and what follows."""

    def get(self, task, name, backbone_digest):
        seen = super().get(task, name, backbone_digest)
        self.put(task, name, seen.version, pinned=True, backbone_digest=backbone_digest, now=1.0)
        return seen


def test_an_alias_that_is_pinned_meanwhile_stays(client, service, trained, train):
    train(trained, seed=1, publish="always")
    store = replace(service.store, aliases=PinnedAtOnce(service.store.database))
    parts = replace(client.app.state.parts, store=store)
    planned = plan(parts, store.tasks.get("default", trained), CreateRun(publish="always"))
    run = queue(parts, planned, now=2.0)
    assert (run.reused, run.published) == (True, False)
    now = client.get(f"/v1/tasks/{trained}/aliases/production").json()
    assert (now["version"], now["pinned"]) == (2, True)


def test_a_dry_run_plans_and_queues_nothing(client, taught):
    before = client.get(f"/v1/tasks/{taught}").json()
    answer = client.post(f"/v1/tasks/{taught}/runs", json={"dry_run": True, "seed": 3})
    assert answer.status_code == 200
    plan = answer.json()
    assert plan["dry_run"] is True
    options = {"seed": 3, "solver": "exact", "l2": None, "class_weight": "auto"}
    assert (plan["strategy"], plan["options"], plan["evaluation"]) == ("head", options, "out_of_fold")
    assert plan["per_class"] == {"red": 4, "blue": 4}
    assert plan["reuses_version"] is None
    assert client.get(f"/v1/tasks/{taught}").json() == before
    assert client.get(f"/v1/tasks/{taught}/runs").json()["data"] == []


def test_a_dry_run_foresees_the_evaluation(client, taught, train):
    """The plan and the version say the same."""
    for label in ("red", "blue"):
        given = {"label": label, "split": "test"}
        client.post(f"/v1/tasks/{taught}/examples", files=files(photo(label, 60)), data=given)
    plan = client.post(f"/v1/tasks/{taught}/runs", json={"dry_run": True}).json()
    train(taught)
    version = client.get(f"/v1/tasks/{taught}/versions/1").json()
    assert plan["evaluation"] == version["evaluation"] == "test"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"strategy": "magic"}, "/strategy"),
        ({"strategy": 1}, "/strategy"),
        ({"publish": "perhaps"}, "/publish"),
        ({"seed": -1}, "/seed"),
        ({"seed": 2**32}, "/seed"),
        ({"seed": 1.5}, "/seed"),
        ({"epochs": 3}, "/epochs"),
        ([], ""),
    ],
)
def test_bad_options_are_refused_with_a_pointer(client, taught, body, pointer):
    answer = client.post(f"/v1/tasks/{taught}/runs", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == pointer


def test_untrainable_tasks_say_what_is_missing(client, task):
    def refused():
        answer = client.post(f"/v1/tasks/{task}/runs", json={})
        assert (answer.status_code, answer.json()["code"]) == (422, "untrainable_data")
        return answer.json()["detail"]

    assert "no labelled examples" in refused()
    client.post(f"/v1/tasks/{task}/examples", files=files(photo("red", 0)), data={"label": "red"})
    assert "needs two" in refused()
    client.post(f"/v1/tasks/{task}/examples", files=files(photo("blue", 0)), data={"label": "blue"})
    assert "'red' has 1" in refused()
    assert client.get(f"/v1/tasks/{task}/runs").json()["data"] == []


def test_wait_holds_the_answer_until_the_run_has_ended(client, service, taught):
    trainer = threading.Timer(0.3, service.work)
    trainer.start()
    answer = client.post(f"/v1/tasks/{taught}/runs", json={}, headers={"Prefer": "respond-async, wait=30"})
    trainer.join()
    assert (answer.status_code, answer.json()["state"]) == (200, "succeeded")
    assert answer.headers["Preference-Applied"] == "wait=30"


def test_wait_ends_when_the_time_is_up(client, taught):
    started = time.monotonic()
    answer = client.post(f"/v1/tasks/{taught}/runs", json={}, headers={"Prefer": "wait=1"})
    assert (answer.status_code, answer.json()["state"]) == (202, "queued")
    assert 1 <= time.monotonic() - started < 5
    client.post(f"/v1/runs/{answer.json()['id']}/cancel")


def test_wait_ends_when_the_server_is_about_to_stop(client, service, taught):
    service.engine.stopping = True
    try:
        answer = client.post(f"/v1/tasks/{taught}/runs", json={}, headers={"Prefer": "wait=60"})
    finally:
        service.engine.stopping = False
    assert answer.status_code == 202
    client.post(f"/v1/runs/{answer.json()['id']}/cancel")


def test_a_queued_run_is_cancelled_at_once_and_only_once(client, taught):
    run = client.post(f"/v1/tasks/{taught}/runs", json={}).json()["id"]
    answer = client.post(f"/v1/runs/{run}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    again = client.post(f"/v1/runs/{run}/cancel")
    assert (again.status_code, again.json()["code"]) == (409, "run_ended")


def test_a_running_run_is_asked_to_cancel(client, service, taught):
    run = client.post(f"/v1/tasks/{taught}/runs", json={}).json()["id"]
    claimed = service.store.runs.claim(60, 3)
    answer = client.post(f"/v1/runs/{run}/cancel")
    assert (answer.status_code, answer.json()["cancel_requested"]) == (202, True)
    service.store.runs.finish(claimed.id, claimed.attempt, "cancelled")


def test_runs_are_listed_newest_first(client, trained):
    again = client.post(f"/v1/tasks/{trained}/runs", json={}).json()["id"]
    listed = client.get(f"/v1/tasks/{trained}/runs").json()["data"]
    assert [run["reused"] for run in listed] == [True, False]
    assert listed[0]["id"] == again
    assert client.get("/v1/runs", params={"limit": 1}).json()["data"] == listed[:1]


@pytest.mark.parametrize("run", ["run_nothing", "x", "a%00b", "run-1"])
@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("POST", "/cancel"), ("GET", "/events"), ("GET", "/results")]
)
def test_an_unknown_run_is_404(client, method, path, run):
    answer = client.request(method, f"/v1/runs/{run}{path}")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_run")
