"""The commands `push` and `predict`, from their arguments to their exit codes."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from service.client import commands
from service.client.api import Client
from service.client.predict import PredictOptions, predict_files
from service.client.push import PushOptions, push
from tests.unit.answering import PROBLEM, Answer, Request, quiet, said_by, serving

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


def test_the_commands_send_the_key_of_the_environment_or_say_where_to_put_it(tmp_path, monkeypatch):
    def answer(request: Request) -> Answer:
        if request.headers.get("authorization") == "Bearer ph_key":
            return trained_service(request)
        return Answer({"status": 401, "code": "key_needed", "detail": "an API key is needed"}, 401)

    with serving(answer) as url:
        command = ("push", str(folder_of_cats(tmp_path)), "--task", "cells", "--url", url)
        without = run_polyhead(*command)
        assert (without.exit_code, "POLYHEAD_API_KEY" in without.output) == (1, True)
        assert run_polyhead(*command, "--api-key", "ph_key").exit_code == 0
        monkeypatch.setenv("POLYHEAD_API_KEY", "ph_key")
        assert run_polyhead(*command).exit_code == 0


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


@pytest.fixture
def interruptible():
    """What a process ignores its children do too, and a shell's background jobs ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
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
