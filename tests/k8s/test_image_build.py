"""Small images by the same buildah: what the Dockerfile's last stage says, and what .dockerignore lets in."""

import os
import re
import shutil
import subprocess
import tarfile

import pytest

from k8s.image.build import Store, for_the_build, install_programs
from k8s.image.check import check_serving
from k8s.image.contents import VENV, check_contents
from k8s.tools import ROOT, busybox
from tests.k8s.image_mistakes import small_image, small_root, write

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="buildah makes containers as root, as image-check does"),
    pytest.mark.timeout(900),  # the first one installs buildah
]
TAG = "localhost/small:1"


@pytest.fixture(scope="module")
def programs():
    install_programs()


@pytest.fixture(scope="module")
def store(programs, tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("store"))
    yield store
    store.remove()


def test_pip_finds_in_the_build_what_it_finds_on_this_machine(tmp_path):
    for name in ("pypi/simple", "pypi-more/simple", "wheels"):
        (tmp_path / name).mkdir(parents=True)
    settings, mounts = for_the_build(
        {
            "index-url": ["https://pypi.example.com/simple"],
            "extra-index-url": [f"file://{tmp_path}/pypi/simple", f"file://{tmp_path}/pypi-more/simple"],
            "find-links": [f"{tmp_path}/wheels", f"{tmp_path}/nowhere"],
        }
    )
    assert settings == {
        "index-url": ["https://pypi.example.com/simple"],
        "extra-index-url": ["file:///run/pip/0/simple", "file:///run/pip/1/simple"],
        "find-links": ["/run/pip/2", f"{tmp_path}/nowhere"],
    }
    assert mounts == [
        f"{tmp_path}/pypi:/run/pip/0:ro", f"{tmp_path}/pypi-more:/run/pip/1:ro",
        f"{tmp_path}/wheels:/run/pip/2:ro"
    ]  # fmt: skip


def last_stage() -> str:
    """Of the project's Dockerfile, with the files of a small root in place of what it copies and runs."""
    text = (ROOT / "Dockerfile").read_text("utf-8")
    (stage,) = re.findall(r"^FROM \$\{PYTHON_IMAGE\} AS polyhead\n(.*)", text, re.MULTILINE | re.DOTALL)
    kept = re.sub(r"^(RUN|COPY --from=\w+) (.*\\\n)*.*\n", "", stage, flags=re.MULTILINE)
    assert "RUN" not in kept
    return f"FROM scratch\nADD root.tar /\n{kept}"


def problems_of(store, folder, dockerfile: str) -> list[str]:
    context = folder / "context"
    context.mkdir()
    small_root(folder / "root")
    with tarfile.open(context / "root.tar", "w") as archive:  # COPY would make all of it root's
        archive.add(folder / "root", "")
    (folder / "Dockerfile").write_text(dockerfile, "utf-8")
    store.build(context, dockerfile=folder / "Dockerfile", tag=TAG, arguments={})
    with store.opened(TAG) as image:
        return [f"{name}: {each}" for name, found in check_contents(image) for each in found]


def test_nothing_is_wrong_with_what_the_dockerfile_says(store, tmp_path):
    assert problems_of(store, tmp_path, last_stage()) == []


# Name, pattern in the last stage, what is there instead, and what the check has to say.
MISTAKES = {
    "a root user": ("USER .*", "USER root", "USER is root"),
    "a shell around the process": (
        "ENTRYPOINT .*", "ENTRYPOINT polyhead", 'Entrypoint is ["/bin/sh", "-c", "polyhead"]'
    ),
    "a shell around the command": (r'^CMD \["serve"\]', "CMD serve", 'Cmd is ["/bin/sh", "-c", "serve"]'),
    "no healthcheck": (r"HEALTHCHECK .*\n.*", "HEALTHCHECK NONE", 'its test is ["NONE"]'),
    "no label": (".*image.licenses=.*\n", "", "no label org.opencontainers.image.licenses"),
    "another version": ("ARG VERSION=.*", "ARG VERSION=0.0.9", "its version is 0.0.9"),
    "an unknown variable": (
        "POLYHEAD_DATA_DIR", "POLYHEAD_DATA_FOLDER", "POLYHEAD_DATA_FOLDER is no setting"
    ),
    "another port": ("EXPOSE .*", "EXPOSE 80", "EXPOSE isn't 8000"),
    "no volume": ("VOLUME .*", "", "is no volume"),
}  # fmt: skip


@pytest.fixture(scope="module")
def findings(store, tmp_path_factory):
    """Of one image with all of them: a build takes seconds."""
    dockerfile = last_stage()
    for meant, written, _ in MISTAKES.values():
        dockerfile, count = re.subn(meant, written, dockerfile, flags=re.MULTILINE)
        assert count == 1, meant
    return problems_of(store, tmp_path_factory.mktemp("mistakes"), dockerfile)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_the_dockerfile_is_found(findings, name):
    assert any(MISTAKES[name][2] in each for each in findings), findings


def test_only_what_the_image_is_made_of_gets_into_the_build(store, tmp_path):
    """The project's .dockerignore, with what a developer may have lying about."""
    said = subprocess.run(
        ["git", "ls-files", "models", "service"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    sources = said.stdout.splitlines()
    wanted = {
        *sources,
        "requirements.lock",
        "requirements-cuda.lock",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    }
    other = {
        ".env", ".git/config", ".venv/bin/python", "build/x", "polyhead-data/key-peppers", "id_rsa",
        "a/x.yaml", "k8s/overlays/scale-out/secrets.yaml", "tests/x.py", "service/__pycache__/app.pyc",
        "service/.env", "models/tls.key", "service/polyhead-data/x.sqlite3", "models/x.safetensors",
    }  # fmt: skip
    context = tmp_path / "context"
    for path in wanted | other:
        write(context, path, "x")
    shutil.copy(ROOT / ".dockerignore", context)
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY . /\n", "utf-8")
    store.build(context, dockerfile=tmp_path / "Dockerfile", tag=TAG, arguments={})
    with store.opened(TAG) as image:
        there = {str(each.relative_to(image.root)) for each in image.root.rglob("*") if each.is_file()}
    assert there == wanted


def test_a_server_that_cannot_start_is_found(programs, tmp_path):
    """Without its weights, say: what it wrote is shown, and nothing of the container stays."""
    image = small_image(tmp_path / "root")
    for name in ("bin/sh", "bin/cp"):
        (image.root / name).parent.mkdir(exist_ok=True)
        shutil.copy(busybox(), image.root / name)
    polyhead = image.root / VENV / "bin" / "polyhead"
    polyhead.write_text('#!/bin/sh\n[ "$1" = key ] && exit 0\necho no weights\nexit 2\n', "utf-8")
    found = dict(check_serving(image, tmp_path / "pod"))
    assert found.pop("its export is copied to the pod's cache folder") == []
    assert found.pop("it makes its first key") == []
    ((name, (problem,)),) = found.items()
    assert name == "it starts as process 1"
    assert "exit code 2: no weights" in problem
    assert not (tmp_path / "pod").exists()
