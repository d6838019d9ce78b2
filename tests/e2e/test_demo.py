"""`make demo`, as its command runs it."""

import re
import subprocess
import sys

import pytest

from service.solar_cells import HELD_BACK, LABELS, choose, read_cells
from tests.servers import clean_environment


def run_demo(*arguments: str, **changed: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "service.demo", *arguments],
        env=clean_environment() | {"COLUMNS": "120"} | changed,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


@pytest.fixture(scope="module")
def shown() -> str:
    done = run_demo()
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(
    "part",
    [
        "polyhead serve",
        "400 created",
        "balanced accuracy",
        "Confusion matrix",
        "exit code 0",
        "How long it took",
    ],
)
def test_the_demo_shows_each_step(shown, part):
    assert part in shown


def test_the_demo_predicts_held_back_photos_better_than_chance(shown):
    (right, total) = map(int, re.findall(r"(\d+) of (\d+) right", shown)[0])
    assert total == HELD_BACK
    assert right > total / 2


@pytest.mark.parametrize("name", ["head.onnx", "model.onnx"])
def test_the_demo_shows_that_the_files_give_the_same_answers(shown, name):
    (difference,) = re.findall(rf"{name} on .*: largest difference of a probability (\S+)", shown)
    assert float(difference) <= 1e-4


def test_a_demo_without_its_photos_says_how_to_get_them(tmp_path):
    """One line and exit code 1."""
    (tmp_path / "elpv_dataset.py").write_text("raise ImportError")
    done = run_demo(PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "The demo failed: the photos are not installed: run `make install`" in done.stdout
    assert "Traceback" not in done.stderr


def test_photos_are_written_to_try_the_service_by_hand(tmp_path):
    done = run_demo("--photos", str(tmp_path), "--count", "24")
    assert done.returncode == 0
    written = {label: len(list((tmp_path / "labelled" / label).iterdir())) for label in LABELS}
    assert written == {"defective": 12, "sound": 12}
    assert len(list((tmp_path / "held-back").iterdir())) == HELD_BACK


def test_no_photo_is_both_trained_on_and_held_back():
    chosen, held_back = choose(read_cells(), 400)
    assert len(chosen) == 400
    assert len(held_back) == HELD_BACK
    assert not {cell.path for cell in chosen} & {cell.path for cell in held_back}
