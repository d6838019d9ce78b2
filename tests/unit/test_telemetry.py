"""Logs are JSON lines on standard error; metrics of all processes are counted together."""

import json
import os
import subprocess
import sys

import pytest

from service import metrics
from service.telemetry import METRICS_FOLDER, SHARED_MEMORY

LOGGING = """
import logging, structlog
from service.telemetry import configure_logging
configure_logging("info", "test")
structlog.stdlib.get_logger("ours").info("an event", task_count=3)
logging.getLogger("a.library").warning("a %s", "warning")
logging.getLogger("uvicorn.error").info("chatter")
try:
    raise ValueError("boom")
except ValueError:
    structlog.stdlib.get_logger("ours").exception("it failed")
"""
COUNTING = """
import os, sys
from service.telemetry import metrics_folder
with metrics_folder() as folder:
    from service.metrics import BACKBONE_IMAGES, QUEUED_IMAGES, forget_process, metrics_text
    BACKBONE_IMAGES.inc(3)
    child = os.fork()
    if child == 0:
        BACKBONE_IMAGES.inc(4)
        QUEUED_IMAGES.set(9)
        os._exit(0)
    os.waitpid(child, 0)
    before = metrics_text().decode()
    forget_process(child)
    after = metrics_text().decode()
print("polyhead_backbone_images_total 7.0" in before, "polyhead_queued_images 9.0" in before)
print("polyhead_backbone_images_total 7.0" in after, "polyhead_queued_images 9.0" in after)
print(folder.exists())
"""


def python(code: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != METRICS_FOLDER}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )


def test_every_line_is_a_json_object_with_its_process_and_time():
    done = python(LOGGING)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.stdout == ""
    assert [line["message"] for line in lines] == ["an event", "a warning", "it failed"]
    assert lines[0]["task_count"] == 3
    assert all({"timestamp", "level", "logger", "process", "pid"} <= line.keys() for line in lines)
    assert lines[2]["exception"][0]["exc_type"] == "ValueError"


QUIET = """
import structlog
from service.telemetry import configure_logging
configure_logging("error", "test")
structlog.stdlib.get_logger("audit").info("a change")
structlog.stdlib.get_logger("ours").info("an event")
"""


def test_the_audit_is_written_at_any_level():
    assert [json.loads(line)["message"] for line in python(QUIET).stderr.splitlines()] == ["a change"]


def test_metrics_are_summed_over_processes_and_a_dead_one_leaves_its_gauges():
    assert python(COUNTING).stdout.split() == ["True", "True", "True", "False", "False"]


SWEEPING = """
import tempfile
from pathlib import Path
from service.telemetry import METRICS_PREFIX, metrics_folder
with metrics_folder() as first:
    left = Path(tempfile.mkdtemp(prefix=METRICS_PREFIX, dir=first.parent))
with metrics_folder() as mine, metrics_folder() as other:
    print(left.exists(), mine.exists(), other.exists(), oct(mine.stat().st_mode & 0o777))
print(first.exists(), mine.exists(), other.exists())
"""


def test_a_server_sweeps_what_a_killed_one_has_left_and_no_living_one_s_folder():
    assert python(SWEEPING).stdout.splitlines() == ["False True True 0o700", "False False False"]


@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="this system has none, and its disk has to do")
def test_metrics_lie_in_memory_so_that_a_full_disk_ends_no_process(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    code = (
        "from service.telemetry import metrics_folder\nwith metrics_folder() as folder: print(folder.parent)"
    )
    assert python(code).stdout.strip() == str(SHARED_MEMORY)


def test_a_folder_has_its_name_only_when_it_is_held():
    """Servers that start and stop beside each other never take one another's new folder for a leftover."""
    code = """
from service.telemetry import metrics_folder
for _ in range(200):
    with metrics_folder() as folder:
        (folder / "values.db").write_bytes(b"")
    assert not folder.exists()
"""
    started = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(3)]
    assert [(each.communicate()[1], each.returncode) for each in started] == [(b"", 0)] * 3


def test_no_metric_has_the_name_of_a_task_or_a_key_as_a_label():
    """A deployment may have a million tasks; per-task counts come from the API."""
    labels = {
        label
        for metric in vars(metrics).values()
        if hasattr(metric, "_labelnames")
        for label in metric._labelnames
    }
    assert labels <= {"stage", "outcome", "method", "route", "status", "kind", "state", "process"}


def test_the_folder_of_the_metrics_must_come_first():
    code = (
        "import prometheus_client\nfrom service.telemetry import metrics_folder\nmetrics_folder().__enter__()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "before prometheus_client is imported" in done.stderr
