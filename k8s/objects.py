"""The objects of one overlay, as kubectl renders them, and the pods that they would make."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from k8s.tools import beside_python

Object = dict[str, Any]


class CannotRender(Exception):
    """What kubectl says of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """An object that makes pods."""

    name: str  # as "Deployment/polyhead"
    labels: Mapping[str, str]  # of its pods
    pod: Object  # their spec

    @property
    def main(self) -> list[Object]:
        """The containers that run polyhead."""
        return list(self.pod["containers"])

    @property
    def containers(self) -> list[Object]:
        return [*self.pod.get("initContainers", []), *self.main]


def render(folder: Path) -> list[Object]:
    """Raises: CannotRender; also for what kubectl only warns of."""
    done = subprocess.run(
        [beside_python("kubectl"), "kustomize", folder], capture_output=True, text=True, check=False
    )
    if done.returncode or done.stderr:
        raise CannotRender(f"{folder.name}: {done.stderr.strip()}")
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def command_of(container: Object) -> str:
    """What polyhead is told to do; the image's own word is serve."""
    return str(container.get("args", ["serve"])[0])


def name_of(each: Object) -> str:
    return f"{each['kind']}/{each['metadata']['name']}"


def of_kind(objects: Sequence[Object], *kinds: str) -> Iterator[tuple[str, Object]]:
    """The objects of these kinds, each with its name."""
    for each in objects:
        if each["kind"] in kinds:
            yield name_of(each), each


def names(objects: Sequence[Object], kind: str) -> set[str]:
    return {each["metadata"]["name"] for _, each in of_kind(objects, kind)}


def workloads(objects: Sequence[Object]) -> list[Workload]:
    return [
        Workload(
            name=name,
            labels=each["spec"]["template"].get("metadata", {}).get("labels", {}),
            pod=each["spec"]["template"]["spec"],
        )
        for name, each in of_kind(objects, "Deployment", "StatefulSet", "DaemonSet", "Job")
    ]


def matches(selector: Object | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector selects these labels; an empty one selects all, none selects nothing."""
    if selector is None:
        return False
    if "matchExpressions" in selector:
        raise NotImplementedError("write matchLabels: this check doesn't know matchExpressions")
    wanted: Mapping[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()
