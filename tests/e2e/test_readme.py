"""The README's walk-through, run as it is printed."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tests.servers import clean_environment, free_port, kill_group

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"```bash\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


def json_objects(text: str) -> Iterator[dict]:
    """Every JSON object in what the commands printed, other lines passed over."""
    decoder, at = json.JSONDecoder(), 0
    while (start := text.find("{", at)) >= 0:
        try:
            value, at = decoder.raw_decode(text, start)
        except ValueError:
            at = start + 1
        else:
            yield value


@pytest.fixture(scope="module")
def walked(tmp_path_factory) -> tuple[Path, list[dict]]:
    """The folder in which all blocks have run in one shell, and what they answered."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "curlrc").mkdir()
    # As printed, with one thing added: an error answer ends the script.
    (folder / "curlrc" / ".curlrc").write_text("silent\nshow-error\nfail-with-body\n")
    script = folder / "walk-through.sh"
    script.write_text("set -euo pipefail\n" + "\n".join(BLOCKS), "utf-8")
    changed = {"POLYHEAD_PORT": str(free_port()), "CURL_HOME": str(folder / "curlrc")}
    with (folder / "output").open("wb") as output, (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", str(script)],
            cwd=folder,
            env=clean_environment() | changed,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=log,
            start_new_session=True,
        )
        try:
            code = process.wait(280)
        finally:
            kill_group(process)
    said = (folder / "output").read_text("utf-8", "replace")
    assert code == 0, said[-3000:] + (folder / "log").read_text("utf-8", "replace")[-3000:]
    return folder, list(json_objects(said))


def test_the_readme_registers_uploads_trains_predicts_and_rolls_back(walked):
    _, answers = walked
    summaries = [answer["summary"] for answer in answers if "summary" in answer]
    assert summaries == [{"created": 30, "duplicate": 0, "conflict": 0, "failed": 0}] * 2
    runs = [answer for answer in answers if answer.get("kind") == "train"]
    assert [(run["state"], run["version"], run["published"]) for run in runs] == [
        ("succeeded", 1, True),
        ("succeeded", 2, True),
    ]
    predictions = [answer for answer in answers if "predictions" in answer]
    assert [(answer["version"], len(answer["predictions"])) for answer in predictions] == [(1, 1), (1, 2)]
    version = next(answer for answer in answers if "metrics" in answer)
    assert version["evaluation"] == "test"
    assert answers[-1]["alias"] == "production"
    assert answers[-1]["version"] == 1


def test_the_downloaded_files_run_without_the_service(walked):
    folder, _ = walked
    head = onnxruntime.InferenceSession(folder / "head.onnx", providers=["CPUExecutionProvider"])
    (probabilities,) = head.run(["probabilities"], {"embedding": np.zeros((3, 1280), np.float32)})
    assert probabilities.shape == (3, 2)
    model = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    (probabilities,) = model.run(["probabilities"], {"pixels": np.zeros((1, 224, 224, 3), np.uint8)})
    assert probabilities.sum() == pytest.approx(1)


def test_the_walk_through_leaves_no_process_behind(walked):
    """`kill %1 && wait %1` ended the service with 0, or the script would have failed."""
    folder, _ = walked
    links = [link for link in Path("/proc").glob("[0-9]*/cwd") if os.access(link, os.R_OK)]
    assert [link for link in links if link.exists() and link.resolve() == folder] == []
