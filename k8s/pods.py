"""What Pod Security "restricted" and the service ask of a pod; checkov knows most of it."""

import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

import service.__main__
from k8s.objects import Object, Workload, command_of, names, of_kind, workloads
from k8s.tools import ROOT, checkov

CONFIG = ROOT / "k8s" / "checkov.yaml"
# The standard's own list: https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"
}  # fmt: skip


def check_pods(objects: Sequence[Object], version: str) -> Iterator[str]:
    """Args: version: the project's, which the image's tag begins with."""
    for _, namespace in of_kind(objects, "Namespace"):
        labels = namespace["metadata"].get("labels", {})
        if labels.get("pod-security.kubernetes.io/enforce") != "restricted":
            yield "Namespace: Pod Security isn't enforced as restricted"
    commands = {
        str(each.name or each.callback.__name__)
        for each in service.__main__.app.registered_commands
        if each.callback
    }
    for workload in workloads(objects):
        yield from (f"{workload.name}: {each}" for each in _volumes(workload))
        # Else a Service named polyhead would set POLYHEAD_PORT to tcp://…
        if names(objects, "Service") and workload.pod.get("enableServiceLinks", True):
            yield f"{workload.name}: enableServiceLinks has to be false"
        for container in workload.containers:
            name, _, tag = container["image"].partition(":")
            if name.rpartition("/")[2] == "polyhead" and tag.partition("-")[0] != version:
                yield f"{workload.name}: the image is {container['image']}, the project's version {version}"
        for container in workload.main:
            if command_of(container) not in commands:
                yield f"{workload.name}: polyhead has no command {command_of(container)}"


def _volumes(workload: Workload) -> Iterator[str]:
    volumes = {each["name"]: set(each) - {"name"} for each in workload.pod.get("volumes", [])}
    for name, kinds in volumes.items():
        if not kinds <= VOLUMES:
            yield f"volume {name} is a {', '.join(kinds)}, which Pod Security restricted forbids"
    mounts = [mount["name"] for each in workload.containers for mount in each.get("volumeMounts", [])]
    for name in sorted(set(mounts) ^ set(volumes)):
        yield f"volume {name} is {'not mounted' if name in volumes else 'mounted and not there'}"


def check_security(overlays: dict[str, Sequence[Object]]) -> Iterator[str]:
    """All overlays in one run of checkov, which takes seconds to start."""
    with tempfile.TemporaryDirectory(prefix="polyhead-k8s-") as folder:
        for name, objects in overlays.items():
            (Path(folder) / f"{name}.yaml").write_text(yaml.safe_dump_all(objects), "utf-8")
        done = subprocess.run(
            [checkov(), "--config-file", CONFIG, "--directory", folder, "--output", "json"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    try:
        said = json.loads(done.stdout)
        failed, passed = said["results"]["failed_checks"], said["summary"]["passed"]
    except (ValueError, LookupError):
        yield f"checkov: {done.stdout}{done.stderr}"
        return
    if not passed:
        yield "checkov has found nothing to look at"
    for each in failed:
        overlay = Path(each["file_path"]).stem
        yield f"{overlay}: {each['resource']}: {each['check_name']} ({each['check_id']})"
