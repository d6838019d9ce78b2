"""`make image-check`: builds the image, looks into it, and has it serve, without Docker.

As root, on Debian: what it needs is installed. It takes ten to fifty minutes, and meanwhile 40 GB of disk.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from k8s.image.build import TAG, CannotBuild, Store, build, install_programs
from k8s.image.contents import Image, check_contents
from k8s.tools import ROOT

WORK = ROOT / "build" / "image"
# A network of loopback alone. And one hierarchy of cgroups for crun, which refuses a hybrid of both versions.
ALONE = ("unshare", "--net", "--mount", "sh", "-ec", """
ip link set lo up
if [ -e /sys/fs/cgroup/unified ]; then mount --bind /sys/fs/cgroup/unified /sys/fs/cgroup; fi
exec "$@"
""", "sh")  # fmt: skip


def check_serving(image: Image, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each check of the image at work, and what is wrong; the last one, if it ended before its time."""
    told = {"config": image.config, "root": str(image.root), "folder": str(folder)}
    with subprocess.Popen(
        [*ALONE, sys.executable, "-m", "k8s.image.serving"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(told))
        process.stdin.close()
        for line in process.stdout:
            name, problems = json.loads(line)
            yield name, problems
    if process.returncode:
        yield "it can be tried", [f"exit code {process.returncode}"]


def check_all(store: Store, tag: str, folder: Path) -> Iterator[tuple[str, list[str]]]:
    with store.opened(tag) as image:
        yield from check_contents(image)
        yield from check_serving(image, folder)


def report(checks: Iterator[tuple[str, list[str]]]) -> int:
    """Print each as it ends. Returns: how many failed."""
    failed = 0
    for name, problems in checks:
        sys.stdout.write(f"{'FAILED' if problems else 'ok':8}{name}\n")
        sys.stdout.writelines(f"        {each}\n" for each in problems[:20])
        sys.stdout.flush()
        failed += bool(problems)
    return failed


def main(arguments: Sequence[str]) -> int:
    variant = arguments[0] if arguments else "cuda"
    store = Store(WORK / "store")
    began = time.monotonic()
    try:
        install_programs()
        store.remove()  # of one that was killed
        shutil.rmtree(WORK, ignore_errors=True)
        try:
            build(store, variant)
            sys.stdout.write(f"{'ok':8}it builds, as {variant}, in {time.monotonic() - began:.0f} s\n")
            failed = report(check_all(store, TAG, WORK / "pod"))
        finally:
            store.remove()
    except CannotBuild as error:
        sys.stdout.write(f"image-check: {error}\n")
        return 2
    sys.stdout.write(f"the image: {failed or 'no'} checks failed\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
