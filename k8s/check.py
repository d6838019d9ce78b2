"""`make k8s-check`: what can be checked of the manifests and the Dockerfile without a cluster."""

import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from k8s.alerts import check_alerts
from k8s.dashboard import check_dashboards
from k8s.environment import check_environment
from k8s.objects import CannotRender, Object, render
from k8s.pods import check_pods, check_security
from k8s.references import check_references
from k8s.schemas import check_schemas
from k8s.tools import ROOT, beside_python

FOLDER = ROOT / "k8s"
MONITORING = Path("components") / "monitoring"
OVERLAYS = ("embedded", "scale-out", "gpu")


def check(objects: Sequence[Object], folder: Path = FOLDER) -> Iterator[str]:
    """What is wrong with one overlay's objects, checkov's part apart."""
    secrets = list(
        yaml.safe_load_all((folder / "overlays/scale-out/secrets.example.yaml").read_text("utf-8"))
    )
    adapter = yaml.safe_load((folder / "prometheus-adapter.yaml").read_text("utf-8"))
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    wrong = list(check_schemas(objects))
    if wrong:  # the others rely on the shape
        yield from wrong
        return
    yield from check_references(objects)
    yield from check_environment(objects, secrets)
    yield from check_pods(objects, version)
    yield from check_alerts(objects, folder / MONITORING, adapter)
    yield from check_dashboards(objects)


def check_dockerfile(dockerfile: Path) -> Iterator[str]:
    done = subprocess.run(
        [beside_python("hadolint"), dockerfile], capture_output=True, text=True, check=False
    )
    yield from (done.stdout + done.stderr).splitlines()


def check_all(folder: Path, dockerfile: Path) -> Iterator[str]:
    rendered: dict[str, Sequence[Object]] = {}
    for name in OVERLAYS:
        try:
            rendered[name] = render(folder / "overlays" / name)
        except CannotRender as error:
            yield str(error)
        else:
            yield from (f"{name}: {each}" for each in check(rendered[name], folder))
    yield from check_security(rendered)
    yield from check_dockerfile(dockerfile)


def main(arguments: Sequence[str]) -> int:
    folder = Path(arguments[0]) if arguments else FOLDER
    problems = list(check_all(folder, ROOT / "Dockerfile"))
    for problem in problems:
        sys.stdout.write(f"{problem}\n")
    sys.stdout.write(f"{', '.join(OVERLAYS)}, Dockerfile: {len(problems) or 'no'} problems\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
