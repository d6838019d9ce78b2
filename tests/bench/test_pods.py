"""The table of a pod's memory can be made; it says nothing about what is much."""

import re

from bench.pods import QUICK, measure


def test_every_row_has_its_figures(tmp_path):
    migrate, *rows = measure(QUICK, tmp_path)
    assert re.fullmatch(r"\| `polyhead migrate` \| \| \d+ \| \| \|", migrate)
    assert [row.split(" |")[0] for row in rows] == ["| idle", "| head and predictions"]
    assert [row for row in rows if not re.search(r"( \| [1-9]\d+){4} \|$", row)] == []
