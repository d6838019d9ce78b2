"""Requests with keys: who is let in, for what, and who is told what."""

import json
import re
import time

import pytest

from service import administration
from service.routes import ROUTERS
from service.settings import Settings
from service.web import keyring
from service.web.scopes import NEEDED, PROBES
from tests.integration.routes.keys import Caller, caller, keyed, new_key
from tests.integration.routes.photos import data_uri, photo
from tests.servers import serving

ROUTES = [
    (method, re.sub(r"{version}", "1", re.sub(r"{(\w+)}", "x", route.path)), route.operation_id)
    for router in ROUTERS
    for route in router.routes
    for method in route.methods
]
OPEN = PROBES | {"metrics"}


def each(routes):
    return pytest.mark.parametrize(
        ("method", "path", "operation"), routes, ids=[route[2] for route in routes]
    )


@pytest.fixture(scope="module")
def service(open_service, tmp_path_factory):
    with keyed(open_service, tmp_path_factory.mktemp("keyed")) as service:
        yield service


@pytest.fixture(scope="module")
def callers(service):
    """A client for each scope."""
    return {scope: caller(service, scope) for scope in ("predict", "train", "admin", "metrics")}


@pytest.fixture
def client(service):
    """Somebody without a key."""
    return service.client


def problem(answer):
    assert answer.headers["Content-Type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


@each(ROUTES)
def test_without_a_key_only_the_probes_answer(client, method, path, operation):
    answer = client.request(method, path)
    if operation in OPEN:
        assert answer.status_code == 200
    else:
        assert problem(answer) == (401, "key_needed")
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="polyhead"'


@each([route for route in ROUTES if route[2] not in OPEN])
def test_a_key_of_another_scope_is_told_which_it_lacks(callers, method, path, operation):
    """A key for metrics may do nothing else; one that may do all the rest may not read them."""
    answer = callers["metrics"].request(method, path)
    assert problem(answer) == (403, "missing_scope")
    assert repr(NEEDED[operation]) in answer.json()["detail"]
    said = f'error="insufficient_scope", scope="{NEEDED[operation]}"'
    assert said in answer.headers["WWW-Authenticate"]


@each([route for route in ROUTES if route[2] not in PROBES])
def test_a_key_of_the_scope_that_is_needed_gets_to_the_route(callers, method, path, operation):
    """What it is told there may be that there is no such thing, or that its body is wrong."""
    assert callers[NEEDED[operation]].request(method, path).status_code not in {401, 403}


def test_a_key_may_come_in_either_header(client, service):
    text, _ = new_key(service.settings, "predict")
    for headers in (
        {"Authorization": f"Bearer {text}"},
        {"authorization": f"bearer  {text}"},
        {"X-API-Key": text},
        {"Authorization": "Basic bWU6aXQ=", "X-API-Key": text},
    ):
        assert client.get("/v1/tasks", headers=headers).status_code == 200, headers


def test_a_key_in_the_url_is_none(client, service):
    text, _ = new_key(service.settings, "admin")
    for name in ("key", "api_key", "access_token", "X-API-Key"):
        assert client.get("/v1/tasks", params={name: text}).status_code == 401


@pytest.mark.parametrize(
    "change", [lambda text: text[:-1] + ("0" if text[-1] != "0" else "1"), lambda _: "x", lambda _: "ph_"]
)
def test_a_wrong_key_is_refused_without_its_text(client, service, change):
    text = change(new_key(service.settings, "admin")[0])
    answer = client.get("/v1/tasks", headers={"Authorization": f"Bearer {text}"})
    assert problem(answer) == (401, "invalid_key")
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
    assert text not in answer.json()["detail"].split()


def test_a_revoked_key_is_refused_within_a_second(client, service):
    text, key_id = new_key(service.settings, "predict")
    headers = {"X-API-Key": text}
    assert client.get("/v1/tasks", headers=headers).status_code == 200
    administration.revoke(service.settings, key_id)
    time.sleep(keyring.FRESH_S + 0.1)
    assert problem(client.get("/v1/tasks", headers=headers)) == (401, "invalid_key")


def test_the_last_use_of_a_key_is_written(client, service):
    text, key_id = new_key(service.settings, "predict")
    assert service.store.api_keys.find(key_id).last_used_at is None
    client.get("/v1/tasks", headers={"X-API-Key": text})
    until = time.monotonic() + 5
    while (used_at := service.store.api_keys.find(key_id).last_used_at) is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert abs(time.time() - used_at) < 60


def test_a_path_that_is_not_there_is_404_with_a_key_alone(client, callers):
    assert client.get("/v1/none").status_code == 401
    assert callers["metrics"].get("/v1/none").status_code == 404
    answer = callers["metrics"].put("/v1/tasks")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, POST")


def test_the_reference_of_the_api_is_open(client):
    for path in ("/docs", "/openapi.json"):
        assert client.get(path).status_code == 200
    styles = re.search(r'/static-offline-docs/[^"]+\.css', client.get("/docs").text)
    assert client.get(styles[0]).status_code == 200
    assert client.get("/static-offline-docs-and-more").status_code == 401


def test_the_body_of_a_stranger_is_not_read(client):
    """It would be 413: the body is larger than what is read at all."""

    def body():
        for _ in range(70):
            yield b"0" * 2**20

    assert client.post("/v1/embeddings", content=body()).status_code == 401


def test_the_log_names_the_key_by_its_id_alone(client, service, logged, caplog):
    text, key_id = new_key(service.settings, "predict", tenant="acme")
    client.get("/v1/tasks", headers={"Authorization": f"Bearer {text}"})
    client.post("/v1/tasks", json={}, headers={"X-API-Key": text})
    assert text.rpartition("_")[2] not in caplog.text
    assert [(line["key"], line["tenant"], line["status"]) for line in logged("service.web.access")] == [
        (key_id, "acme", 200),
        (key_id, "acme", 403),
    ]


@pytest.mark.parametrize(
    ("open_probes", "answers"),
    [("all", (200, 200, 200)), ("health", (200, 200, 401)), ("none", (401, 401, 401))],
)
def test_a_setting_says_which_probes_are_open(open_service, tmp_path, open_probes, answers):
    with keyed(open_service, tmp_path / "data", open_probes=open_probes) as service:
        paths = ("/livez", "/readyz", "/metrics")
        assert tuple(service.client.get(path).status_code for path in paths) == answers
        metrics, admin = caller(service, "metrics"), caller(service, "admin")
        assert [metrics.get(path).status_code for path in paths] == [200, 200, 200]
        assert admin.get("/metrics").status_code == (200 if open_probes == "all" else 403)


def test_a_key_that_asks_too_often_is_told_when_to_come_back(open_service, tmp_path):
    with keyed(open_service, tmp_path / "data", key_requests_per_minute=3) as service:
        slow, other = caller(service, "predict"), caller(service, "predict")
        token, _ = administration.create(
            service.settings, name="x", scopes=["predict"], tenant="t", requests_per_minute=5
        )
        own = Caller(service.client, token.text)
        assert [slow.get("/v1/tasks").status_code for _ in range(4)] == [200, 200, 200, 429]
        answer = slow.get("/v1/tasks")
        assert problem(answer) == (429, "rate_limited")
        assert answer.headers["Retry-After"] == "20"
        assert other.get("/v1/tasks").status_code == 200
        assert [own.get("/v1/tasks").status_code for _ in range(6)] == [200] * 5 + [429]
        assert service.client.get("/readyz").status_code == 200


def test_where_keys_are_off_none_is_looked_at(open_service, tmp_path):
    with open_service(tmp_path) as service:
        answer = service.client.get("/v1/tasks", headers={"Authorization": "Bearer whatever"})
        assert answer.status_code == 200


def test_a_browser_s_preflight_needs_no_key_and_a_refusal_can_be_read(open_service, tmp_path):
    with keyed(open_service, tmp_path / "data", allow_origins=("https://shop.example",)) as service:
        asked = {
            "Origin": "https://shop.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        assert service.client.options("/v1/predict", headers=asked).status_code == 200
        answer = service.client.get("/v1/tasks", headers={"Origin": "https://shop.example"})
        assert answer.status_code == 401
        assert answer.headers["Access-Control-Allow-Origin"] == "https://shop.example"
        assert "WWW-Authenticate" in answer.headers["Access-Control-Expose-Headers"]


def test_a_real_server_asks_for_keys(tmp_path, cache_dir):
    """Made before the start on the same folder, checked by it, and revoked beside it."""
    settings = Settings(data_dir=tmp_path / "data")
    text, key_id = new_key(settings, "predict")
    environment = {"authentication": "keys", "cache_dir": str(cache_dir), "api_processes": "2"}
    with serving(tmp_path, **environment) as server, server.client() as client:
        with_key = {"X-API-Key": text}
        body = {"input": data_uri(photo("red", 0))}
        assert client.post("/v1/embeddings", json=body).status_code == 401
        assert client.post("/v1/embeddings", json=body, headers=with_key).status_code == 200
        assert client.post("/v1/tasks", json={}, headers=with_key).status_code == 403
        administration.revoke(settings, key_id)
        time.sleep(keyring.FRESH_S + 0.1)
        for _ in range(8):  # a connection of its own for each, so that both API processes are asked
            with server.client() as other:
                assert other.get("/v1/tasks", headers=with_key).status_code == 401
        logged = server.log.read_text()
    assert text.rpartition("_")[2] not in logged
    assert any(json.loads(line).get("key") == key_id for line in logged.splitlines() if line.startswith("{"))
