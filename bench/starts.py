"""Rows of starting: from the command to the first answer that says ready, with warm disk and cache."""

import contextlib
from pathlib import Path

from bench.contenders import Contenders, serve_plain, serve_polyhead
from bench.heads import arrays_file
from bench.processes import Running, free_port, wait_for_http
from bench.rows import Goal, Row


def starts(run: Contenders, cache: Path) -> list[Row]:
    scale = run.scale
    took: dict[str, list[float]] = {"polyhead": [], "plain LitServe": []}
    with run.plain.running.frozen():
        for turn in range(scale.starts):
            data = run.folder / f"start-{turn}"
            port = free_port()
            polyhead = serve_polyhead(scale, port, data, cache, run.folder)
            took["polyhead"].append(_ready(polyhead, f"http://127.0.0.1:{port}/readyz"))
            port = free_port()
            plain = serve_plain(scale, port, arrays_file(run.folder, 0), run.folder)
            took["plain LitServe"].append(_ready(plain, f"http://127.0.0.1:{port}/health"))
    return [
        Row(
            name="start to ready",
            unit="s",
            values=took,
            compared="polyhead",
            figures=took["polyhead"],
            figure_unit="s",
            goal=Goal(10, "lower", "s"),
            notes=[
                "empty data folder, the backbone's export in the cache; another polyhead runs idle beside it"
            ],
        ),
    ]


def _ready(starting: contextlib.AbstractContextManager[Running], url: str) -> float:
    with starting as server:
        return wait_for_http(server, url)
