"""The lab's command runs from end to end; what it finds is asserted in tests/unit/test_offline_lab.py."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLES = (
    "As taught, 1 seeds",
    "A fourth class, the saltire, 1 seeds",
    "40 pictures a class, 1 seeds",
    "Last convolution and head at 0.05, 1 seeds",
    "Pooled features, 1 seeds",
    "Flattened features, 1 seeds",
)


@pytest.mark.timeout(280)
def test_one_command_prints_every_table():
    command = [sys.executable, "-m", "bench.lab", "--seeds", "1"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=240).stdout
    assert [line for line in said.splitlines() if line.endswith("1 seeds")] == list(TABLES)
    assert said.count("| exact head |") == len(TABLES)
    assert "| last convolution too |" in said
    assert "3,075" in said  # parameters of a head on flattened features
