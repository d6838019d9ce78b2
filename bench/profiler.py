"""`python -m bench.profiler`: where the processes of a saturated polyhead spend their time, by py-spy.

Needs py-spy (the `bench` extra) and the right to trace one's own processes.
"""

import shutil
import subprocess
import tempfile
import threading
from collections import Counter
from pathlib import Path

import platformdirs

from bench.__main__ import tell
from bench.contenders import Contenders, started
from bench.photos import JPEG_640, make_photos
from bench.processes import BenchFailed
from bench.scale import FULL

SECONDS = 12
IMAGES = 4000  # more than there is time for
SHOWN = 30  # lines a process
WATCHED = ("polyhead-api-0", "polyhead-worker")


def main() -> None:
    cache = Path(platformdirs.user_cache_dir("polyhead-bench"))
    folder = Path(tempfile.mkdtemp(prefix="polyhead-bench-"))
    try:
        tell("making photos and starting")
        photos = make_photos(JPEG_640, IMAGES + 64, cache / "photos")
        with started(FULL, {JPEG_640.name: photos}, folder, cache / "backbones") as run:
            run.polyhead.load(64, connections=FULL.connections)
            with run.plain.running.frozen():
                profile(run, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def profile(run: Contenders, folder: Path) -> None:
    """Record every watched process while the server is saturated, and print what they did."""
    load = threading.Thread(
        target=run.polyhead.load, args=(IMAGES,), kwargs={"connections": 16, "seconds": SECONDS + 3.0}
    )
    pids = {name: pid for pid, name in run.polyhead.running.members().items() if name in WATCHED}
    load.start()
    recorders = [record(pid, folder / f"{name}.raw") for name, pid in pids.items()]
    for recorder in recorders:
        if recorder.wait(SECONDS + 60):
            raise BenchFailed("py-spy failed: is it installed, and may this user trace?")
    load.join()
    for name in pids:
        print(f"\n{name}")
        show((folder / f"{name}.raw").read_text("utf-8").splitlines())


def record(pid: int, to: Path) -> "subprocess.Popen[bytes]":
    program = shutil.which("py-spy") or "py-spy"
    said = ["record", "--pid", str(pid), "--duration", str(SECONDS), "--rate", "100", "--format", "raw"]
    return subprocess.Popen(
        [program, *said, "--threads", "--nonblocking", "--output", str(to)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def show(stacks: list[str]) -> None:
    """Shares of the samples in which a thread was running: by function itself, and with all it called."""
    own, whole, total = Counter[str](), Counter[str](), 0
    for line in stacks:
        stack, _, seen = line.rpartition(" ")
        frames = [frame.rsplit(":", 1)[0] for frame in stack.split(";")]
        total += int(seen)
        own[frames[-1]] += int(seen)
        for frame in set(frames):
            whole[frame] += int(seen)
    for title, counted in (("itself", own), ("with what it calls", whole)):
        print(f"  {title}, of {total} samples ({total / 100 / SECONDS:.2f} threads running)")
        for frame, count in counted.most_common(SHOWN):
            print(f"    {count / total:6.1%}  {frame}")


if __name__ == "__main__":
    main()
