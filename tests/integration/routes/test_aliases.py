"""Aliases: publishing, rolling back, and what must not change."""

import pytest

from tests.integration.routes.photos import files, photo


@pytest.fixture
def two(trained, train):
    """A task with versions 1 and 2, and 1 in production."""
    train(trained, seed=1, publish="never")
    return trained


def served(client, task):
    answer = client.post(f"/v1/tasks/{task}/predict", files=files(photo("red", 0)))
    assert answer.status_code == 200
    return answer.json()["version"]


def test_a_rollback_is_a_put(client, two):
    for version in (2, 1):
        answer = client.put(f"/v1/tasks/{two}/aliases/production", json={"version": version})
        assert (answer.status_code, answer.json()["version"]) == (200, version)
        assert served(client, two) == version


def test_an_alias_of_ones_own_is_predicted_with(client, two):
    client.put(f"/v1/tasks/{two}/aliases/candidate", json={"version": 2})
    answer = client.post(f"/v1/tasks/{two}/predict?alias=candidate", files=files(photo("red", 0)))
    assert answer.headers["X-Head-Version"] == "2"
    listed = client.get(f"/v1/tasks/{two}/aliases").json()
    assert [alias["alias"] for alias in listed["data"]] == ["candidate", "production"]


def test_an_unknown_version_is_refused_and_nothing_changes(client, two):
    answer = client.put(f"/v1/tasks/{two}/aliases/production", json={"version": 9})
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_version")
    assert served(client, two) == 1


@pytest.mark.parametrize("name", ["3", "UPPER", "a_b", "-a"])
def test_a_bad_name_is_refused(client, two, name):
    answer = client.put(f"/v1/tasks/{two}/aliases/{name}", json={"version": 1})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_field")
    assert client.get(f"/v1/tasks/{two}/aliases/{name}").status_code == 404


@pytest.mark.parametrize(
    "body", [{}, {"version": 0}, {"version": "1"}, {"version": 2**31}, {"version": 1, "x": 1}]
)
def test_a_bad_body_is_refused(client, two, body):
    assert client.put(f"/v1/tasks/{two}/aliases/production", json=body).status_code == 422


def test_a_stale_etag_moves_nothing(client, two):
    where = f"/v1/tasks/{two}/aliases/production"
    stale = client.get(where).headers["ETag"]
    current = client.put(where, json={"version": 2}, headers={"If-Match": stale}).headers["ETag"]
    assert client.put(where, json={"version": 1}, headers={"If-Match": stale}).status_code == 412
    assert client.delete(where, headers={"If-Match": stale}).status_code == 412
    assert client.get(where).json()["version"] == 2
    assert client.get(where, headers={"If-None-Match": current}).status_code == 304
    assert client.delete(where, headers={"If-Match": current}).status_code == 204


def test_if_match_asks_for_an_alias_that_is_there(client, two):
    answer = client.put(f"/v1/tasks/{two}/aliases/new", json={"version": 1}, headers={"If-Match": "*"})
    assert answer.status_code == 412
    assert client.get(f"/v1/tasks/{two}/aliases/new").status_code == 404


def test_without_production_predict_says_so(client, two):
    assert client.delete(f"/v1/tasks/{two}/aliases/production").status_code == 204
    answer = client.post(f"/v1/tasks/{two}/predict", files=files(photo("red", 0)))
    assert (answer.status_code, answer.json()["code"]) == (409, "nothing_published")
    assert client.delete(f"/v1/tasks/{two}/aliases/production").status_code == 404
