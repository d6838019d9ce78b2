"""The HTTP client against a small server that answers as told."""

import httpx
import pytest

from service.client.api import Client, Refused, Unreachable, describe_problem
from service.client.events import Event, follow_run, parse_events
from tests.unit.answering import Answer, Request, serving


def test_a_problem_is_one_line_with_its_fields():
    problem = {
        "status": 422,
        "code": "invalid_field",
        "detail": "the body\nis invalid",
        "errors": [{"pointer": "/kind", "detail": "no such kind"}],
    }
    assert describe_problem(problem) == "422 invalid_field: the body is invalid (/kind: no such kind)"


def test_a_field_that_the_detail_names_already_is_not_said_twice():
    problem = {"code": "x", "detail": "/kind: no such kind", "errors": [{"detail": "no such kind"}]}
    assert describe_problem(problem, 422) == "422 x: /kind: no such kind"


def test_an_error_page_of_a_proxy_is_one_line_too():
    with (
        serving(lambda _: Answer(b"<html>\n<h1>Bad gateway</h1>", 502)) as url,
        Client(url) as client,
        pytest.raises(Refused, match=r"^502 unknown: Bad Gateway from http://\S+/v1/tasks$") as refused,
    ):
        client.get("/v1/tasks")
    assert refused.value.status == 502


def test_what_is_not_the_service_is_said_to_be_so():
    with (
        serving(lambda _: Answer(b"hello")) as url,
        Client(url) as client,
        pytest.raises(Unreachable, match="not in the service's JSON"),
    ):
        client.reach()


def test_nothing_listening_is_said_at_once():
    with serving(lambda _: Answer()) as url:
        pass  # a port that was free a moment ago, and is again
    pauses = list[float]()
    with Client(url, sleep=pauses.append) as client, pytest.raises(Unreachable, match="polyhead serve"):
        client.reach()
    assert pauses == []


def test_an_overloaded_server_is_waited_out_for_as_long_as_it_asks():
    answers = iter(
        [Answer(status=429, headers={"Retry-After": "3"}), Answer(status=503), Answer({"name": "cells"})]
    )
    pauses = list[float]()
    with serving(lambda _: next(answers)) as url, Client(url, sleep=pauses.append) as client:
        assert client.get("/v1/tasks/cells") == {"name": "cells"}
    assert pauses[0] == 3
    assert pauses[1] > pauses[0]


def test_patience_ends():
    with (
        serving(lambda _: Answer({"code": "overloaded", "detail": "later"}, 429)) as url,
        Client(url, timeout_s=0.1) as client,
        pytest.raises(Refused, match="429 overloaded: later"),
    ):
        client.get("/v1/tasks/cells")


def test_every_page_of_a_list_is_read():
    def answer(request: Request) -> Answer:
        after = int(request.query.get("after", ["0"])[0])
        return Answer({"data": [{"n": after}], "has_more": after < 2, "next": str(after + 1)})

    with serving(answer) as url, Client(url) as client:
        assert [item["n"] for item in client.pages("/v1/runs")] == [0, 1, 2]


def test_a_task_made_by_another_in_between_is_taken():
    answers = iter(
        [
            Answer(status=404),
            Answer({"code": "task_exists"}, 409),
            Answer({"name": "cells", "kind": "multiclass"}),
        ]
    )
    with serving(lambda _: next(answers)) as url, Client(url) as client:
        task, is_new = client.ensure_task("cells", None)
    assert task["kind"] == "multiclass"
    assert not is_new


def test_events_are_parsed_over_pings_and_split_data():
    lines = [
        ": ping",
        "",
        "id: 4",
        "event: progress",
        'data: {"phase":',
        'data: "fit"}',
        "",
        "id: 5",
        "data: {}",
    ]
    assert list(parse_events(lines)) == [Event("4", "progress", {"phase": "fit"})]


def test_a_broken_stream_is_resumed_after_its_last_event():
    """The first answer says a longer `Content-Length` than it sends, and breaks off."""
    asked = list[str | None]()

    def answer(request: Request) -> Answer:
        if not request.path.endswith("/events"):
            return Answer({"id": "run_1", "state": "succeeded" if len(asked) > 1 else "running"})
        asked.append(request.headers.get("last-event-id"))
        if len(asked) == 1:
            body = b'id: 1\nevent: state\ndata: {"state": "running"}\n\n'
            return Answer(body, headers={"Content-Length": "1000", "Connection": "close"})
        return Answer(b'id: 2\nevent: state\ndata: {"state": "succeeded"}\n\n')

    heard = list[str]()
    with serving(answer) as url, Client(url) as client:
        run = follow_run(
            client, "run_1", on_event=lambda event: heard.append(event.data["state"]), sleep=lambda _: None
        )
    assert run["state"] == "succeeded"
    assert heard == ["running", "succeeded"]
    assert asked == [None, "1"]


@pytest.mark.parametrize("status", [200, 503], ids=["an empty stream", "a server that is about to stop"])
def test_a_run_is_followed_where_streams_do_not_get_through(status):
    states = iter(["running", "failed"])

    def answer(request: Request) -> Answer:
        return Answer(b"", status) if request.path.endswith("/events") else Answer({"state": next(states)})

    with serving(answer) as url, Client(url) as client:
        assert follow_run(client, "r", on_event=print, sleep=lambda _: None)["state"] == "failed"


def test_a_run_that_is_gone_with_its_task_is_an_error():
    with (
        serving(lambda _: Answer({"code": "unknown_run"}, 404)) as url,
        Client(url) as client,
        pytest.raises(Refused, match="404 unknown_run"),
    ):
        follow_run(client, "run_1", on_event=print)


def test_httpx_sends_the_labels_of_a_multilabel_photo_as_repeated_fields():
    """What `label` being repeatable relies on."""
    request = httpx.Request("POST", "http://x", data={"label": ["a", "b"]}, files=[("file", ("f", b""))])
    assert request.read().count(b'name="label"') == 2


def test_a_key_is_sent_as_a_bearer_token_and_none_if_there_is_none():
    asked = list[str | None]()

    def answer(request: Request) -> Answer:
        asked.append(request.headers.get("authorization"))
        return Answer({})

    with serving(answer) as url:
        for key in ("ph_key\n", None):
            with Client(url, api_key=key) as client:
                client.get("/v1/tasks")
    assert asked == ["Bearer ph_key", None]
