"""The benchmark runs from end to end. Nothing here asserts a time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.photos import JPEG_224, JPEG_640, PNG_640, make_photo, make_photos
from bench.rows import Goal, Row, percentile, ratios, shown

ROOT = Path(__file__).resolve().parents[2]
GROUPS = {  # a row of each group, those of the goals' speed part first
    "throughput against the limit",
    "throughput against plain LitServe",
    "lone request, p50",
    "start to ready",
    "4 tasks, 1 heads held: throughput",
    "one model per task, LitServe, a LitAPI a task, 2 tasks: throughput",
    "offered 10 x: answered with 200 or 429, and alive by /livez",
    "predictions beside the training of 40 photos: p95",
    "the same: the training in it",
    "the same images again: throughput",
}


@pytest.mark.timeout(560)
def test_every_row_can_be_measured(tmp_path):
    """As CI runs it: tiny, and all that it makes is looked at."""
    command = [sys.executable, "-m", "bench", "--quick", "--out", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as bench:
        try:
            _, errors = bench.communicate(timeout=520)
        finally:
            bench.terminate()  # it ends its servers itself, which lead sessions of their own
    assert bench.returncode == 0, errors
    said = json.loads((tmp_path / "results.json").read_text("utf-8"))
    names = {row["name"] for row in said["rows"]}
    assert names >= GROUPS
    assert [
        row["name"] for row in said["rows"] if not row["figures"] or not all(row["values"].values())
    ] == []
    assert said["same_top_1"]["polyhead and limit"] == 1.0
    table = (tmp_path / "results.md").read_text("utf-8")
    assert [name for name in names if f"| {name} |" not in table] == []
    assert (tmp_path / "throughput.png").stat().st_size > 1000
    assert (tmp_path / "goals.png").stat().st_size > 1000


@pytest.mark.parametrize("kind", [JPEG_640, JPEG_224, PNG_640], ids=lambda kind: kind.name)
def test_no_two_photos_are_alike_and_each_is_the_same_again(kind):
    photos = [make_photo(kind, index) for index in range(6)]
    assert len(set(photos)) == 6
    assert [make_photo(kind, index) for index in range(6)] == photos


def test_a_pool_gives_back_what_was_made(tmp_path):
    photos = make_photos(JPEG_224, 5, tmp_path).open()
    assert [photos[index] for index in range(5)] == [make_photo(JPEG_224, index) for index in range(5)]


def test_a_figure_is_the_median_of_what_each_round_compares():
    """One slow round slows both sides of its ratio, and changes nothing."""
    fast, slow = [100.0, 10.0, 120.0], [50.0, 5.0, 60.0]
    row = Row(
        name="x",
        unit="images/s",
        values={"fast": fast, "slow": slow},
        compared="fast / slow",
        figures=ratios(fast, slow),
        goal=Goal(2, "higher"),
    )
    assert row.figure == 2
    assert row.reached


@pytest.mark.parametrize(
    ("goal", "figure", "reached"),
    [
        (Goal(0.85, "higher"), 0.85, True),
        (Goal(0.85, "higher"), 0.84, False),
        (Goal(5, "lower", "ms"), 5.1, False),
        (Goal(5, "lower", "ms"), -1.0, True),
    ],
)
def test_a_goal_is_reached_from_its_side(goal, figure, reached):
    assert goal.reached(figure) is reached


def test_numbers_are_shown_with_their_range():
    assert shown([131.2, 118.4, 140.9]) == "131 (118-141)"
    assert shown([0.456]) == "0.46"


def test_a_percentile_is_a_number_that_was_measured():
    assert percentile([float(number) for number in range(100)], 0.95) == 95
    assert percentile([7.0], 0.95) == 7
