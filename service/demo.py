"""`make demo`: a real task on real photos, through HTTP and the `polyhead` command alone.

Photos of solar cells become a task, a trained head, a published version, predictions on photos held back, and
two ONNX files that give the same answers without the service.
`--photos DIR` only writes some of the photos, for trying the service by hand.
"""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from rich.console import Console
from rich.rule import Rule
from rich.table import Table

from models.arrays import FloatArray
from models.identity import Preprocessing
from models.preprocess import decode_image
from service.solar_cells import HELD_BACK, LABELS, PhotosMissing, write_photos

TASK = "solar-cells"
PHOTOS = 400  # for the task
BY_HAND = 60  # for `--photos`
READY_S = 180.0  # a cold start exports the backbone
STOP_S = 30.0
LARGEST_DIFFERENCE = 1e-4  # of a probability, between the service and the files


class DemoFailed(Exception):
    """A step that did not do what it should, in one line."""


@dataclass
class Demo:
    """The terminal, the service's address, and how long each step took."""

    console: Console
    folder: Path
    url: str
    http: httpx.Client
    took: list[tuple[str, float]] = field(default_factory=list)  # (step, seconds)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.console.print(Rule(name, align="left"))
        started = time.monotonic()
        yield
        self.took.append((name, time.monotonic() - started))

    def echo(self, *command: object) -> None:
        self.console.print(
            "$ " + shlex.join(str(part) for part in command), style="bold cyan", soft_wrap=True
        )

    def polyhead(self, *arguments: object, capture: bool = False) -> str:
        """Run the command as a user would, in the photos' folder; its output if captured."""
        self.echo("polyhead", *arguments)
        done = subprocess.run(  # noqa: S603  # our own command
            [sys.executable, "-m", "service", *map(str, arguments)],
            cwd=self.folder,
            env=environment(),
            stdout=subprocess.PIPE if capture else None,
            text=True,
            check=False,
        )
        if done.returncode:
            raise DemoFailed(f"polyhead {arguments[0]} ended with exit code {done.returncode}")
        return done.stdout or ""

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One HTTP request, shown as the curl command that it stands for."""
        shown: list[object] = (
            ["curl", self.url + path] if method == "GET" else ["curl", "-X", method, self.url + path]
        )
        self.echo(*shown, *([] if body is None else ["--json", json.dumps(body)]))
        return self.answer(self.http.request(method, path, json=body))

    def answer(self, response: httpx.Response) -> Any:
        if response.is_error:
            raise DemoFailed(
                f"{response.request.method} {response.url.path}: {response.status_code} {response.text}"
            )
        return response.json()

    def download(self, path: str) -> bytes:
        self.echo("curl", "-O", self.url + path)
        response = self.http.get(path)
        if response.is_error:
            raise DemoFailed(f"GET {path}: {response.status_code} {response.text}")
        self.console.print(f"{path.rsplit('/', 1)[-1]}: {len(response.content):,} bytes")
        return response.content


def environment() -> dict[str, str]:
    """Ours, without what would lead to a service or a store of the user's own."""
    dropped = {f"POLYHEAD_{name}" for name in ("HOST", "PORT", "URL", "DATA_DIR", "DATABASE_URL", "BLOB_URL")}
    return {name: value for name, value in os.environ.items() if name not in dropped}


@contextmanager
def running_service(demo: Demo, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Start `polyhead serve`, wait until it is ready, and leave nothing of it behind, whatever happens."""
    command = ["serve", "--port", str(port), "--data-dir", "data"]
    log = demo.folder / "serve.log"
    demo.echo("polyhead", *command)
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603  # our own command
            [sys.executable, "-m", "service", *command],
            cwd=demo.folder,
            env=environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    except DemoFailed:
        demo.console.print(log.read_text("utf-8", "replace")[-3000:], style="dim")
        raise
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until_ready(demo: Demo, process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise DemoFailed(f"the service ended with exit code {process.returncode} before it was ready")
        try:
            if demo.http.get("/readyz").is_success:
                return
        except httpx.TransportError:
            pass  # nothing listens until the inference worker is ready
        time.sleep(0.1)
    raise DemoFailed(f"the service was not ready within {READY_S:.0f} s")


def stop(demo: Demo, process: "subprocess.Popen[bytes]") -> None:
    demo.echo("kill", "-TERM", process.pid)
    process.send_signal(signal.SIGTERM)
    try:
        code = process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        raise DemoFailed(f"the service did not stop within {STOP_S:.0f} s of SIGTERM") from None
    demo.console.print(f"exit code {code}")
    if code:
        raise DemoFailed("the service did not end cleanly")


def push(demo: Demo) -> int:
    """Upload and train; the version made. The two are timed apart by what the run says of itself."""
    with demo.step("Upload the photos, train, report"):
        demo.polyhead(
            "push", "labelled", "--task", TASK, "--url", demo.url, "--train", "--publish", "never"
        )  # fmt: skip
        (run,) = demo.answer(demo.http.get(f"/v1/tasks/{TASK}/runs", params={"limit": 1}))["data"]
    name, seconds = demo.took.pop()
    started, finished = (datetime.fromisoformat(run[key]) for key in ("created_at", "finished_at"))
    training_s = (finished - started).total_seconds()
    demo.took += [(name.split(",")[0], seconds - training_s), ("Train, test, export", training_s)]
    version: int = run["version"]
    return version


def predict(demo: Demo) -> dict[str, FloatArray]:
    """Predict the photos held back, beside the truth; the probabilities of LABELS for each file."""
    files = sorted(path.relative_to(demo.folder) for path in (demo.folder / "held-back").iterdir())
    said = demo.polyhead("predict", *files, "--task", TASK, "--url", demo.url, "--json", capture=True)
    table = Table("photo", "truth", "prediction", "score", "")
    probabilities, right = dict[str, FloatArray](), 0
    for prediction in json.loads(said)["predictions"]:
        file = Path(prediction["file"])
        truth, _, cell = file.stem.partition("-")
        right += prediction["label"] == truth
        mark = "right" if prediction["label"] == truth else "[red]wrong[/]"
        table.add_row(cell, truth, prediction["label"], f"{prediction['score']:.4f}", mark)
        scores = {score["label"]: score["score"] for score in prediction["scores"]}
        probabilities[str(file)] = np.array([scores[label] for label in LABELS], np.float32)  # (2,)
    demo.console.print(table)
    demo.console.print(f"{right} of {len(files)} right")
    return probabilities


def compare(demo: Demo, version: int, served: dict[str, FloatArray]) -> None:
    """Run both downloaded files in ONNX Runtime on the same photos; the service must have said the same.

    Raises: DemoFailed: a probability differs by more than LARGEST_DIFFERENCE.
    """
    photos = [(demo.folder / name).read_bytes() for name in served]
    said = demo.call("GET", "/v1/backbone")["preprocessing"]
    preprocessing = Preprocessing(**said | {"mean": tuple(said["mean"]), "std": tuple(said["std"])})
    pixels = np.stack([decode_image(photo, preprocessing, max_pixels=10**7).pixels for photo in photos])
    answer = demo.answer(
        demo.http.post(
            "/v1/embeddings",
            files=[("file", (name, photo)) for name, photo in zip(served, photos, strict=True)],
        )
    )
    embeddings = np.array([item["embedding"] for item in answer["data"]], np.float32)  # (N, D)
    expected = np.stack(list(served.values()))  # (N, 2), columns as LABELS
    fed: dict[str, dict[str, Any]] = {
        "head.onnx": {"embedding": embeddings},
        "model.onnx": {"pixels": pixels},
    }
    for name, inputs in fed.items():
        file = demo.download(f"/v1/tasks/{TASK}/versions/{version}/{name}")
        difference = float(np.abs(run_onnx(file, inputs) - expected).max())
        what = "its embeddings" if name == "head.onnx" else "the pixels"
        demo.console.print(f"{name} on {what}: largest difference of a probability {difference:.1e}")
        if difference > LARGEST_DIFFERENCE:
            raise DemoFailed(f"{name} differs from the service by more than {LARGEST_DIFFERENCE:g}")


def run_onnx(file: bytes, inputs: dict[str, Any]) -> FloatArray:
    """(N, 2) probabilities, columns in the order of LABELS by the labels in the file's metadata."""
    import onnxruntime  # noqa: PLC0415  # `--photos` does without

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])
    (probabilities,) = session.run(["probabilities"], inputs)
    return np.asarray(probabilities[:, [labels.index(label) for label in LABELS]], np.float32)


def run_demo(console: Console, folder: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    began = time.monotonic()
    with httpx.Client(base_url=url, timeout=60) as http:
        demo = Demo(console, folder, url, http)
        with demo.step(f"Take {PHOTOS} photos of solar cells, and {HELD_BACK} to hold back"):
            write_photos(folder, PHOTOS)
        with running_service(demo, port) as process:
            with demo.step("Start the service"):
                wait_until_ready(demo, process)
            with demo.step("Register the task"):
                demo.call("POST", "/v1/tasks", {"name": TASK, "kind": "multiclass"})
            version = push(demo)
            with demo.step("Publish"):
                demo.call("PUT", f"/v1/tasks/{TASK}/aliases/production", {"version": version})
            with demo.step("Predict the photos held back"):
                served = predict(demo)
            with demo.step("Take the head away as ONNX"):
                compare(demo, version, served)
            with demo.step("Stop the service"):
                stop(demo, process)
    demo.took.append(("Everything", time.monotonic() - began))
    table = Table("step", "seconds", title="How long it took", title_justify="left")
    for name, seconds in demo.took:
        table.add_row(name, f"{seconds:.1f}")
    console.print(table)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main(
    photos: Annotated[
        Path | None, typer.Option(help="Only write photos into this folder, to try the service by hand.")
    ] = None,
    count: Annotated[int, typer.Option(min=24, max=1400, help="How many, with --photos.")] = BY_HAND,
) -> None:
    """Run the main job on real photos: upload, train, publish, predict, export."""
    console = Console(highlight=False)
    try:
        if photos is not None:
            count -= count % 2
            write_photos(photos, count)
            console.print(f"{count} photos in {photos}/labelled, {HELD_BACK} others in {photos}/held-back")
            return
        with tempfile.TemporaryDirectory(prefix="polyhead-demo-") as folder:
            run_demo(console, Path(folder))
    except (DemoFailed, PhotosMissing) as failed:
        console.print(f"The demo failed: {failed}", style="bold red", markup=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
