"""The image from the Dockerfile, by buildah, on a base of Debian's packages, in a store of its own.

Docker Hub isn't asked: what the Dockerfile calls python:3.11-slim-bookworm is made of bookworm's own Python
3.11. pip finds packages where this machine's pip does: its configuration is mounted for the build.
"""

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from k8s.image.contents import Image
from k8s.tools import ROOT, TOOLS

# Programs, and Debian's packages that bring them.
PROGRAMS = {
    "buildah": "buildah",
    "crun": "crun",
    "ip": "iproute2",
    "mmdebstrap": "mmdebstrap",
    "unshare": "util-linux",
}
BASE = "python3,python3-venv,python-is-python3,ca-certificates"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
TAG = "polyhead:image-check"


class CannotBuild(Exception):
    """One line: what is missing here, or which command failed and what it said."""


def install_programs() -> None:
    """Raises: CannotBuild."""
    if os.geteuid() != 0:
        raise CannotBuild("make image-check mounts and makes containers, so it has to run as root")
    missing = sorted({package for name, package in PROGRAMS.items() if shutil.which(name) is None})
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise CannotBuild(f"{', '.join(missing)} are missing, and there is no apt-get to install them with")
    _run("apt-get", "--quiet", "update")
    _run(
        "apt-get", "--quiet", "--yes", "--no-install-recommends", "install", *missing,
        environment={"DEBIAN_FRONTEND": "noninteractive"},
    )  # fmt: skip


class Store:
    """Images and containers below one folder, apart from the machine's own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def build(
        self,
        context: Path,
        *,
        dockerfile: Path,
        tag: str,
        arguments: Mapping[str, str],
        mounts: Sequence[str] = (),
    ) -> None:
        """Args: mounts: `source:target:ro`, there for each RUN. Raises: CannotBuild."""
        told = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        told += [word for mount in mounts for word in ("--volume", mount)]
        # Docker's format has HEALTHCHECK, OCI's hasn't.
        self._buildah(
            "bud", "--isolation", "chroot", "--pull-never", "--format", "docker", "--layers=false",
            "--file", dockerfile, "--tag", tag, *told, context,
        )  # fmt: skip

    def has(self, tag: str) -> bool:
        return tag in self._buildah("images", "--format", "{{.Name}}:{{.Tag}}").split()

    @contextmanager
    def opened(self, tag: str) -> Iterator[Image]:
        """The image, its files mounted meanwhile."""
        said = json.loads(self._buildah("inspect", "--type", "image", tag))
        container = self._buildah("from", "--pull-never", tag).strip()
        try:
            root = self._buildah("mount", container).strip()
            yield Image(said["Docker"]["config"], Path(root))
        finally:
            self._buildah("rm", container)

    def remove(self) -> None:
        if self._folder.exists():
            self._buildah("rm", "--all")
            self._buildah("rmi", "--all", "--force")
            # What is left is mounted on itself.
            overlay = self._folder / "images" / "overlay"
            subprocess.run(["umount", "--quiet", overlay], check=False)  # noqa: S607
            shutil.rmtree(self._folder)

    def _buildah(self, *command: str | Path) -> str:
        store = (
            "--root",
            self._folder / "images",
            "--runroot",
            self._folder / "run",
            "--storage-driver",
            "overlay",
        )
        return _run("buildah", *store, *command)


def build(store: Store, variant: str) -> None:
    """Build the project's Dockerfile as TAG. Raises: CannotBuild."""
    text = (ROOT / "Dockerfile").read_text("utf-8")
    found = re.search(r"^ARG PYTHON_IMAGE=(python:(3\.\d+)-slim-([a-z]+))$", text, re.MULTILINE)
    if found is None:
        raise CannotBuild("Dockerfile: PYTHON_IMAGE is no python:VERSION-slim-RELEASE")
    name, version, release = found.groups()
    with tempfile.TemporaryDirectory(prefix="polyhead-image-") as folder:
        _make_base(store, f"docker.io/library/{name}", version, release, Path(folder))
        configuration, mounts = pip_of_this_machine()
        (Path(folder) / "pip.conf").write_text(configuration, "utf-8")
        store.build(
            ROOT,
            dockerfile=ROOT / "Dockerfile",
            tag=TAG,
            arguments={"VARIANT": variant, "REVISION": _run("git", "-C", ROOT, "rev-parse", "HEAD").strip()},
            mounts=[f"{folder}/pip.conf:/etc/pip.conf:ro", *mounts],
        )


def _make_base(store: Store, tag: str, version: str, release: str, folder: Path) -> None:
    """The packages are fetched once, into build/."""
    archive = TOOLS / f"debian-{release}.tar"
    if not archive.exists():
        TOOLS.mkdir(parents=True, exist_ok=True)
        part = archive.with_suffix(".part.tar")
        _run("mmdebstrap", "--quiet", "--variant=minbase", f"--include={BASE},python{version}", release, part)
        part.rename(archive)
    context = folder / "base"
    context.mkdir()
    os.link(archive, context / "base.tar") if _same_disk(archive, context) else shutil.copy(
        archive, context / "base.tar"
    )
    (context / "Dockerfile").write_text("FROM scratch\nADD base.tar /\n", "utf-8")
    store.build(context, dockerfile=context / "Dockerfile", tag=tag, arguments={})


def _same_disk(*paths: Path) -> bool:
    return len({path.stat().st_dev for path in paths}) == 1


def pip_of_this_machine() -> tuple[str, list[str]]:
    """Where pip looks for packages here.

    Returns: a pip.conf for the build, and the mounts of what it names on this machine.
    """
    said = _run(sys.executable, "-m", "pip", "config", "list")
    found: dict[str, list[str]] = {}
    for scope, name, value in re.findall(r"^(.+?)\.([a-z-]+)='(.*)'$", said, re.MULTILINE):
        if name in ("index-url", "extra-index-url", "find-links") and scope in ("global", "install", ":env:"):
            found.setdefault(name, []).extend(
                each for each in value.split() if each not in found.get(name, [])
            )
    if CERTIFICATES.exists():
        found["cert"] = [str(CERTIFICATES)]
    found, mounts = for_the_build(found)
    parser = configparser.ConfigParser(interpolation=None)
    parser["global"] = {name: " ".join(values) for name, values in found.items()}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        parser.write(file)
        file.seek(0)
        return file.read(), mounts


def for_the_build(found: Mapping[str, Sequence[str]]) -> tuple[dict[str, list[str]], list[str]]:
    """The same settings of pip where this machine's folders are mounted, and the mounts.

    Below /run, since the image keeps an empty folder where something was mounted.
    """
    everything = [each for values in found.values() for each in values]
    folders = {folder for folder in map(_local, everything) if folder and folder.exists()}
    targets = {folder: f"/run/pip/{number}" for number, folder in enumerate(sorted(folders))}

    def moved(where: str) -> str:
        folder = _local(where)
        return where.replace(str(folder), targets[folder], 1) if folder in targets else where

    settings = {name: [moved(each) for each in values] for name, values in found.items()}
    return settings, [f"{folder}:{target}:ro" for folder, target in targets.items()]


def _local(where: str) -> Path | None:
    """The folder or file of this machine that is meant, if one is; a simple index names ../../files/…."""
    if not where.startswith(("/", "file:")):
        return None
    path = Path(urlsplit(where).path)
    return path.parent if path.name == "simple" else path


def _run(*command: str | Path, environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        command, env=os.environ | (environment or {}), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-3000:]
        raise CannotBuild(f"{' '.join(map(str, command[:1]))} failed, exit code {done.returncode}: {said}")
    return done.stdout
