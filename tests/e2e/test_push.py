"""`polyhead push` and `polyhead predict` against a real server with a tiny backbone."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.integration.routes.photos import photo
from tests.servers import Server, clean_environment, kill_group, serving, start, wait_until_ready

COMMAND = (sys.executable, "-m", "service")
LABELS = ("red", "green")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Class folders of 24 photos each."""
    folder = tmp_path_factory.mktemp("photos")
    for label in LABELS:
        (folder / label).mkdir()
        for number in range(24):
            (folder / label / f"{label}-{number}.jpg").write_bytes(photo(label, number))
    return folder


def polyhead(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        env=clean_environment() | {"COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def task_at(server: Server, task: str) -> dict:
    with server.client() as http:
        return http.get(f"/v1/tasks/{task}").json()


def test_a_folder_becomes_a_served_task_and_a_second_push_changes_nothing(server, photos):
    first = polyhead("push", photos, "--task", "folder", "--url", server.url, "--train")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "48 created" in first.stdout
    assert "balanced accuracy" in first.stdout
    assert "version 1 is production now" in first.stdout
    second = polyhead("push", photos, "--task", "folder", "--url", server.url, "--train")
    assert second.returncode == 0, second.stdout + second.stderr
    assert "48 there already" in second.stdout
    assert "Nothing has changed since version 1" in second.stdout
    assert task_at(server, "folder")["versions"] == 1


def test_photos_are_predicted_by_name_and_version(server, photos):
    polyhead("push", photos, "--task", "predicted", "--url", server.url, "--train")
    files = [photos / "red" / "red-1.jpg", photos / "green" / "green-1.jpg"]
    done = polyhead("predict", *files, "--task", "predicted", "--url", server.url, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)["predictions"]
    assert [(item["label"], item["version"]) for item in said] == [("red", 1), ("green", 1)]
    missing = polyhead("predict", files[0], "--task", "predicted", "--version", 9, "--url", server.url)
    assert missing.returncode == 1
    assert "404 unknown_version" in missing.stderr


def test_an_archive_is_imported_and_trained(server, photos, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "photos"), "zip", photos)
    done = polyhead("push", archive, "--task", "archive", "--url", server.url, "--train")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "48 created" in done.stdout
    assert task_at(server, "archive")["per_class"] == {"green": 24, "red": 24}


def test_metadata_gives_each_photo_labels_and_a_split(server, photos, tmp_path):
    rows = list[dict]()
    for number, path in enumerate(sorted(photos.rglob("*.jpg"))):
        shutil.copy(path, tmp_path)
        labels = [path.parent.name] + (["even"] if number % 2 == 0 else [])
        split = ("train", "train", "validation", "test")[number % 4]
        rows.append({"file_name": path.name, "labels": labels, "split": split})
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = polyhead("push", tmp_path, "--task", "metadata", "--url", server.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert task_at(server, "metadata")["kind"] == "multilabel"
    with server.client() as http:
        page = http.get("/v1/tasks/metadata/examples", params={"split": "test", "limit": 500}).json()
    assert len(page["data"]) == 12


def test_a_bad_photo_is_named_and_its_neighbours_are_taken(server, photos, tmp_path):
    shutil.copytree(photos, tmp_path, dirs_exist_ok=True)
    (tmp_path / "red" / "bad.jpg").write_text("no photo")
    (tmp_path / "red" / "cut.jpg").write_bytes(photo("red", 0)[:200])
    done = polyhead("push", tmp_path, "--task", "bad", "--url", server.url)
    assert done.returncode == 1
    assert "48 created, 2 failed" in done.stdout
    assert "failed: red/bad.jpg: 415 unsupported_image" in done.stdout
    assert "failed: red/cut.jpg: 422 invalid_image" in done.stdout


def test_a_push_goes_on_when_the_server_is_killed_and_started_again(photos, tmp_path):
    """kill -9 of everything in the middle: each photo is there once, and the run is reported."""
    first = start(tmp_path)
    second = None
    pushing = None
    try:
        wait_until_ready(first)
        pushing = subprocess.Popen(
            [
                *COMMAND,
                "push",
                str(photos),
                "--task",
                "killed",
                "--train",
                "--batch",
                "1",
                "--url",
                first.url,
            ],
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        wait_for_examples(first, 5)
        kill_group(first.process)
        second = start(tmp_path, port=first.url.rpartition(":")[2])
        output, _ = pushing.communicate(timeout=120)
        assert pushing.returncode == 0, output
        assert "Version 1" in output
        at = httpx.get(f"{first.url}/v1/tasks/killed").json()
        assert (at["examples"], at["production"]) == (48, 1)
    finally:
        if pushing is not None:
            pushing.kill()
            pushing.wait()
        kill_group(first.process)
        if second is not None:
            kill_group(second.process)


def wait_for_examples(server: Server, count: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        at = httpx.get(f"{server.url}/v1/tasks/killed")
        if at.is_success and at.json()["examples"] >= count:
            return
        time.sleep(0.01)
    raise AssertionError(server.tail())
