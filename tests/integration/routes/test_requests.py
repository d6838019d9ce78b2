"""What holds for every request: ids, unknown routes, CORS, and errors that nobody foresaw."""

import re

import pytest

from tests.integration.routes.photos import files, photo


@pytest.mark.parametrize("path", ["/nothing", "/v1/nothing", "/v1/tasks/", "/v1/tasks/x/nothing", "/predict"])
def test_an_unknown_route_is_a_problem(client, path):
    answer = client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["instance"] == path


def test_a_wrong_method_is_a_problem_and_names_the_right_ones(client):
    answer = client.delete("/v1/tasks")
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET, POST"


def test_a_request_id_is_given_or_kept(client):
    assert client.get("/v1/tasks").headers["X-Request-ID"].startswith("req_")
    assert client.get("/v1/tasks", headers={"X-Request-ID": "mine-7"}).headers["X-Request-ID"] == "mine-7"


@pytest.mark.parametrize("bad", ["", "a b", "x" * 129, 'a"b', "ä".encode()])
def test_a_request_id_that_could_break_a_log_is_replaced(client, bad):
    assert client.get("/v1/tasks", headers={"X-Request-ID": bad}).headers["X-Request-ID"].startswith("req_")


def test_a_mistake_of_ours_is_a_500_without_its_trace(client, service, trained):
    service.engine.fails_with = RuntimeError("secret detail")
    try:
        answer = client.post(f"/v1/tasks/{trained}/predict", files=files(photo("red", 0)))
    finally:
        service.engine.fails_with = None
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    assert answer.headers["X-Request-ID"]


def test_cors_is_off_by_default(client):
    answer = client.get("/v1/tasks", headers={"Origin": "https://app.example"})
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_a_setting_names_the_origins(open_service, tmp_path):
    with open_service(tmp_path, allow_origins=("https://app.example",)) as service:
        origin = {"Origin": "https://app.example"}
        answer = service.client.get("/v1/tasks", headers=origin)
        asked = origin | {"Access-Control-Request-Method": "PUT"}
        preflight = service.client.options("/v1/tasks/x", headers=asked)
        other = service.client.get("/v1/tasks", headers={"Origin": "https://other.example"})
    assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example"
    exposed = answer.headers["Access-Control-Expose-Headers"]
    assert all(name in exposed for name in ("Location", "ETag", "Retry-After", "X-Head-Version"))
    assert preflight.status_code == 200
    assert "Access-Control-Allow-Origin" not in other.headers


def test_requests_are_counted_by_route_and_never_by_task(client, task):
    client.get(f"/v1/tasks/{task}")
    client.get("/no/such/route")
    text = client.get("/metrics").text
    assert 'polyhead_requests_total{method="GET",route="/v1/tasks/{task}",status="200"}' in text
    assert task not in text
    assert "/no/such" not in text


def test_the_docs_are_served_without_a_cdn(client):
    """All that the page loads comes from here."""
    page = client.get("/docs")
    assert page.status_code == 200
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) == 3
    for path in loaded:
        assert client.get(path).status_code == 200, path
    assert client.get("/openapi.json").json()["info"]["title"] == "Polyhead"
