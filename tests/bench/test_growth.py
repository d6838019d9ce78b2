"""The figures of docs/scaling.md can be made; bytes and statements are near what the data must take."""

import re

from bench.growth import QUICK, measure


def test_every_line_has_its_figures(tmp_path):
    lines = measure(QUICK, tmp_path / "store", tmp_path / "cache")
    assert len(lines) == 6
    row, vector = (int(re.search(r": (\d+) bytes", line)[1]) for line in lines[1:3])
    assert row > 300  # two digests, a key and a name are more
    assert vector > 16 * 4 + 2 * 32
    assert [line for line in lines[3:] if not re.search(r"[1-9]", line)] == []
    assert "0 statements" not in lines[5].replace("10 statements", "")
