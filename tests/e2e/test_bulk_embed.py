"""`polyhead bulk-embed` on a Ray of its own: interrupted, gone on with, as the service, kept up to date."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from pyarrow import parquet

from tests.servers import TINY, clean_environment, group_members, kill_group, serving
from tests.unit.test_bulk import png

GOOD = 300


class Place:
    """Photos and where their embeddings go."""

    def __init__(self, folder):
        self.source, self.destination, self.cache = folder / "in", folder / "out", folder / "cache"
        self.log = folder / "log"
        for number in range(GOOD):
            path = self.source / f"{number % 3}" / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(number))
        (self.source / "broken.jpg").write_bytes(b"no")

    def start(self):
        arguments = [str(self.source), str(self.destination), "--images-per-file", "3", "--actors", "1"]
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "service", "bulk-embed", *arguments],
                env=clean_environment()
                | {"POLYHEAD_BACKBONE": TINY, "POLYHEAD_CACHE_DIR": str(self.cache), "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def finish(self):
        """Run to the end and return what it said."""
        process = self.start()
        try:
            assert process.wait(240) == 0, self.log.read_text()
            remaining(process)
        finally:
            kill_group(process)
        return self.log.read_text()

    def files(self):
        return {path.name: path.stat().st_mtime_ns for path in self.destination.glob("*.parquet")}

    def rows(self):
        return {
            row["path"]: row
            for path in self.destination.glob("*.parquet")
            for row in parquet.read_table(path).to_pylist()
        }


def remaining(process):
    """Ray's processes end by themselves when the command has."""
    end = time.monotonic() + 60
    while (left := group_members(process.pid)) and time.monotonic() < end:
        time.sleep(0.1)
    assert left == {}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("bulk"))


def test_an_interrupted_run_leaves_whole_files_and_the_next_one_goes_on(place):
    process = place.start()
    try:
        end = time.monotonic() + 240
        while not (place.destination.is_dir() and place.files()):
            assert process.poll() is None, place.log.read_text()
            assert time.monotonic() < end
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(60) == 130, place.log.read_text()
    finally:
        kill_group(process)
    assert "run it again to go on" in place.log.read_text()
    before = place.files()
    assert 0 < len(place.rows()) < GOOD + 1

    assert f"{GOOD + 1 - len(place.rows())} of" in place.finish()

    assert before.items() <= place.files().items()
    rows = place.rows()
    assert len(rows) == GOOD + 1
    assert [path for path, row in rows.items() if row["error"]] == ["broken.jpg"]
    assert sum(parquet.read_metadata(place.destination / name).num_rows for name in place.files()) == len(
        rows
    )


def test_the_embeddings_are_those_of_the_service(place, tmp_path):
    paths = [f"{number % 3}/{number:03}.png" for number in range(20)]
    with serving(tmp_path, cache_dir=str(place.cache)) as server, server.client() as client:
        files = [("file", (path, (place.source / path).read_bytes())) for path in paths]
        answer = client.post("/v1/embeddings", files=files).json()
    served = np.array([each["embedding"] for each in answer["data"]], np.float32)  # (N, D)
    rows = place.rows()
    bulk = np.array([rows[path]["embedding"] for path in paths], np.float32)
    cosine = (served * bulk).sum(1) / np.linalg.norm(served, axis=1) / np.linalg.norm(bulk, axis=1)
    assert cosine.min() > 0.9999
    assert np.allclose(served, bulk, rtol=1e-5, atol=1e-6)


def test_what_is_there_stays_and_what_changed_is_made_anew(place):
    before = place.files()
    assert f"0 of 0 images embedded in 0 files, 0 unreadable, {GOOD + 1} there already" in place.finish()
    assert place.files() == before

    (place.source / "0" / "000-new.png").write_bytes(png(1000))
    (place.source / "broken.jpg").unlink()
    place.finish()

    rows = place.rows()
    assert len(rows) == GOOD + 1
    assert "0/000-new.png" in rows
    assert "broken.jpg" not in rows
    assert len(before.items() & place.files().items()) >= len(before) - 10
