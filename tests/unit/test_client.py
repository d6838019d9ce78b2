"""The HTTP client and its commands against a small server that answers as told."""

import io
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from rich.console import Console
from typer import Typer
from typer.testing import CliRunner

from service.client import commands
from service.client.api import Client, Refused, Unreachable, describe_problem
from service.client.events import Event, follow_run, parse_events
from service.client.folder import Photo
from service.client.predict import PredictOptions, predict_files
from service.client.push import PushOptions, push
from service.client.upload import Loaded, batches, upload_photos
from service.layouts import Labelling

PROBLEM = {"status": 422, "code": "invalid_image", "detail": "the image can't be decoded: truncated"}


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    @property
    def photos(self) -> int:
        """How many `file` parts a multipart body has."""
        return self.body.count(b'name="file"')


@dataclass
class Answer:
    body: object = field(default_factory=dict)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@contextmanager
def serving(answer: Callable[[Request], Answer]) -> Iterator[str]:
    """A real HTTP server on a free port, answering each request with what `answer` says."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            said = answer(Request(self.command, url.path, parse_qs(url.query), headers, body))
            data = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
            self.send_response(said.status)
            for name, value in {"Content-Length": str(len(data)), **said.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = respond  # noqa: N815  # names that http.server calls

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def quiet() -> Console:
    return Console(file=io.StringIO(), width=120, markup=False)


def said_by(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


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


def loaded(name: str, label: str, size: int = 1) -> Loaded:
    return Loaded(Photo(Path(name), name, Labelling(labels=(label,))), b"x" * size)


def test_a_batch_has_one_labelling_and_a_bounded_size():
    some = [
        loaded("1", "a"),
        loaded("2", "a"),
        loaded("3", "a"),
        loaded("4", "b"),
        loaded("5", "b", 40 * 2**20),
    ]
    sizes = [[one.photo.name for one in batch] for batch in batches(some, 2, alike=True)]
    assert sizes == [["1", "2"], ["3"], ["4"], ["5"]]
    mixed = [[one.photo.name for one in batch] for batch in batches(some, 9, alike=False)]
    assert mixed == [["1", "2", "3", "4"], ["5"]]


def photos_in(folder: Path, *names: str) -> list[Photo]:
    photos = list[Photo]()
    for name in names:
        (folder / name).write_bytes(name.encode())
        photos.append(Photo(folder / name, name, Labelling(labels=("cat",))))
    return photos


def test_a_batch_refused_as_a_whole_is_sent_in_halves_to_give_each_file_its_reason(tmp_path):
    def answer(request: Request) -> Answer:
        if b"bad" in request.body.replace(b"bad.jpg", b"") and request.photos > 1:
            return Answer(PROBLEM, 422)
        if b"\r\nbad" in request.body:
            return Answer(PROBLEM, 422)
        return Answer({"data": [{"index": i, "status": "created"} for i in range(request.photos)]}, 201)

    photos = photos_in(tmp_path, "a.jpg", "bad.jpg", "c.jpg")
    photos.append(Photo(tmp_path / "gone.jpg", "gone.jpg", Labelling(labels=("cat",))))
    with serving(answer) as url, Client(url) as client:
        tally = upload_photos(client, "cells", photos, batch=64, as_json=False, console=quiet())
    assert tally.created == 2
    assert dict(tally.failures) == {
        "bad.jpg": "422 invalid_image: the image can't be decoded: truncated",
        "gone.jpg": "No such file or directory",
    }
    assert tally.total == 4


def test_photos_labelled_one_by_one_go_as_json(tmp_path):
    bodies = list[dict]()

    def answer(request: Request) -> Answer:
        bodies.append(json.loads(request.body))
        data = [{"index": 0, "status": "created"}, {"index": 1, "status": "conflict", "error": None}]
        return Answer({"data": data}, 207)

    first, second = photos_in(tmp_path, "a.jpg", "b.jpg")
    photos = [
        Photo(first.path, "a.jpg", Labelling(value=1.5, group="g", split="test")),
        Photo(second.path, "b.jpg", Labelling(labels=())),
    ]
    with serving(answer) as url, Client(url) as client:
        tally = upload_photos(client, "cells", photos, batch=64, as_json=True, console=quiet())
    assert bodies[0]["examples"] == [
        {"image": "YS5qcGc=", "filename": "a.jpg", "value": 1.5, "group": "g", "split": "test"},
        {"image": "Yi5qcGc=", "filename": "b.jpg", "labels": []},
    ]
    assert (tally.created, tally.conflicts) == (1, [("b.jpg", "it has another label already, which stays")])


def test_an_authorisation_error_is_not_taken_for_a_bad_photo(tmp_path):
    with (
        serving(lambda _: Answer({"code": "unauthorized"}, 401)) as url,
        Client(url) as client,
        pytest.raises(Refused, match="401"),
    ):
        upload_photos(client, "cells", photos_in(tmp_path, "a.jpg"), batch=2, as_json=False, console=quiet())


VERSION = {
    "version": 3,
    "strategy": "head",
    "evaluation": "test",
    "trainable_parameters": 2562,
    "total_parameters": 3_415_586,
    "metrics": {"accuracy": 0.9, "count": 40},
}


def trained_service(request: Request) -> Answer:
    """A service with one task, whose run has a story and succeeds."""
    succeeded = {
        "id": "run_1",
        "state": "succeeded",
        "version": 3,
        "published": True,
        "published_reason": "first",
    }
    match request.method, request.path:
        case "POST", "/v1/tasks/cells/examples":
            count = request.photos
            return Answer({"data": [{"index": i, "status": "duplicate"} for i in range(count)]}, 200)
        case "POST", "/v1/tasks/cells/runs":
            return Answer({"id": "run_1", "state": "queued"}, 202)
        case "GET", "/v1/runs/run_1/events":
            events = [
                '{"phase": "fitting", "candidate": 1, "candidates": 4, "score": 0.5}',
                '{"phase": "export"}',
            ]
            return Answer("".join(f"event: progress\ndata: {data}\n\n" for data in events).encode())
        case "GET", "/v1/runs/run_1":
            return Answer(succeeded)
        case "GET", "/v1/tasks/cells/versions/3":
            return Answer(VERSION)
    return Answer({"name": "cells", "kind": "multiclass"})


def folder_of_cats(folder: Path) -> Path:
    (folder / "cat").mkdir()
    for i in range(3):
        (folder / "cat" / f"{i}.jpg").write_bytes(bytes([i]))
    return folder


def test_push_uploads_trains_follows_and_reports(tmp_path):
    options = PushOptions(
        source=folder_of_cats(tmp_path),
        task="cells",
        kind=None,
        train=True,
        strategy="head",
        publish="first",
        batch=2,
    )
    console = quiet()
    with serving(trained_service) as url, Client(url) as client:
        assert push(client, options, console)
    said = said_by(console)
    for part in (
        "3 there already",
        "fitting: candidate 1 of 4, score 0.5000",
        "export",
        "0.9000",
        "version 3 is production now (first)",
    ):
        assert part in said


app = Typer()
app.command()(commands.push)
app.command()(commands.predict)


def run_polyhead(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_the_command_exits_with_0_when_all_is_well(tmp_path):
    with serving(trained_service) as url:
        result = run_polyhead(
            "push", str(folder_of_cats(tmp_path)), "--task", "cells", "--url", url, "--train"
        )
    assert result.exit_code == 0, result.output


def test_a_failed_run_exits_with_1_and_its_reason(tmp_path):
    def answer(request: Request) -> Answer:
        if request.path == "/v1/runs/run_1":
            error = {"status": 422, "code": "untrainable_data", "detail": "class cat stands alone"}
            return Answer({"id": "run_1", "state": "failed", "error": error})
        return trained_service(request)

    with serving(answer) as url:
        result = run_polyhead(
            "push", str(folder_of_cats(tmp_path)), "--task", "cells", "--url", url, "--train"
        )
    assert result.exit_code == 1
    assert "The run has failed: 422 untrainable_data: class cat stands alone" in result.output


@pytest.mark.parametrize("kind", ["empty folder", "missing", "kind of another task"])
def test_unusable_input_exits_with_2(tmp_path, kind):
    source = tmp_path / "nowhere" if kind == "missing" else tmp_path
    more = list[str]()
    if kind == "kind of another task":
        folder_of_cats(tmp_path)
        more = ["--kind", "regression"]
    with serving(trained_service) as url:
        result = run_polyhead("push", str(source), "--task", "cells", "--url", url, *more)
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_run_that_is_active_is_waited_for_first(tmp_path):
    posts = iter([Answer({"code": "run_active", "run": "run_0"}, 409)])

    def answer(request: Request) -> Answer:
        match request.method, request.path:
            case "POST", "/v1/tasks/cells/runs":
                return next(posts, trained_service(request))
            case "GET", "/v1/runs/run_0":
                return Answer({"state": "succeeded"})
            case "GET", "/v1/runs/run_0/events":
                return Answer(b"")
        return trained_service(request)

    with serving(answer) as url:
        result = run_polyhead(
            "push", str(folder_of_cats(tmp_path)), "--task", "cells", "--url", url, "--train"
        )
    assert result.exit_code == 0, result.output
    assert "Run run_0 of the task is active: waiting for it first." in result.stdout


def test_interrupted_the_run_goes_on_and_is_named(tmp_path):
    """Ctrl-C while a stream is silent: one line, exit code 130, nothing cancelled."""
    asked, over = threading.Event(), threading.Event()
    requests = list[tuple[str, str]]()

    def answer(request: Request) -> Answer:
        requests.append((request.method, request.path))
        if request.path.endswith("/events"):
            asked.set()
            over.wait(20)
        return trained_service(request)

    arguments = ["push", str(folder_of_cats(tmp_path)), "--task", "cells", "--train"]
    with serving(answer) as url:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", *arguments, "--url", url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert asked.wait(20)
            process.send_signal(signal.SIGINT)
            _, complaints = process.communicate(timeout=20)
        finally:
            over.set()
            process.kill()
            process.wait()
    assert process.returncode == 130
    assert complaints.startswith("Interrupted: run run_1 goes on")
    assert not [path for _, path in requests if path.endswith("/cancel")]


def predicting(request: Request) -> Answer:
    if b"broken" in request.body:
        return Answer(PROBLEM, 422)
    scores = [{"label": "cat", "score": 0.75}, {"label": "dog", "score": 0.25}]
    predictions = [
        {"index": i, "label": "cat", "score": 0.75, "scores": scores} for i in range(request.photos)
    ]
    return Answer({"task": "cells", "version": int(request.query["version"][0]), "predictions": predictions})


def test_predictions_keep_the_order_of_the_files_around_bad_ones(tmp_path):
    for name in ("a", "broken", "c"):
        (tmp_path / name).write_bytes(name.encode())
    files = [tmp_path / name for name in ("a", "gone", "broken", "c")]
    options = PredictOptions(files=files, task="cells", version=2, alias=None, top_k=None, as_json=False)
    with serving(predicting) as url, Client(url) as client:
        answers = list(predict_files(client, options))
    assert [answer["file"] for answer in answers] == [str(file) for file in files]
    assert [answer.get("label") for answer in answers] == ["cat", None, None, "cat"]
    assert answers[0]["version"] == 2
    assert answers[1]["error"]["code"] == "unreadable_file"
    assert answers[2]["error"] == PROBLEM


def test_predict_prints_json_on_request(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    arguments = ["predict", str(tmp_path / "a"), "--task", "cells", "--version", "2"]
    with serving(predicting) as url:
        as_json = run_polyhead(*arguments, "--url", url, "--json")
        as_table = run_polyhead(*arguments, "--url", url)
    assert json.loads(as_json.stdout)["predictions"][0]["label"] == "cat"
    assert "0.7500" in as_table.stdout
    assert as_table.exit_code == 0


def test_httpx_sends_the_labels_of_a_multilabel_photo_as_repeated_fields():
    """What `label` being repeatable relies on."""
    request = httpx.Request("POST", "http://x", data={"label": ["a", "b"]}, files=[("file", ("f", b""))])
    assert request.read().count(b'name="label"') == 2
