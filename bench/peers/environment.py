"""A peer's own packages, in a venv that takes from ours what they leave open: their pins clash with ours."""

import hashlib
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from bench.processes import BenchFailed

INSTALL_S = 900


def python_of(name: str, cache: Path) -> Path:
    """The python of a peer with `requirements-{name}.txt` installed, made when it isn't there.

    Raises: BenchFailed: pip could not.
    """
    requirements = Path(__file__).with_name(f"requirements-{name}.txt")
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    folder = cache / "peers" / f"{name}-{digest}"
    python, whole = folder / "bin" / "python", folder / "installed"
    if whole.exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    site = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    (folder / site / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    command = [str(python), "-m", "pip", "install", "--quiet", "--requirement", str(requirements)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_S)
    except subprocess.CalledProcessError as error:
        raise BenchFailed(f"the packages of {name} can't be installed: {error.stderr}") from error
    except subprocess.TimeoutExpired as error:
        raise BenchFailed(f"the packages of {name} weren't installed within {INSTALL_S} s") from error
    whole.touch()
    return python
