"""docs/kubernetes.md line by line, as far as that goes without a cluster: kubectl reads each command."""

import base64
import re
import shlex
import subprocess
from collections.abc import Iterator

import pytest
import yaml
from typer.testing import CliRunner

import service.__main__
from k8s.check import OVERLAYS
from k8s.environment import check_environment
from k8s.objects import Object, names, of_kind, render
from k8s.tools import ROOT, beside_python

TEXT = (ROOT / "docs" / "kubernetes.md").read_text("utf-8")
LINES = [
    re.sub(r"(&| < \S+)$", "", line).strip()
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]
KUBECTL = [line for line in LINES if line.startswith("kubectl ")]
INLINE = re.findall(r"`(kubectl [a-z-][^`]+)`", TEXT)
SECRETS = [line for line in KUBECTL if "create secret" in line]
OF_THE_CLUSTER = {"label namespace shop", "get --raw", "apply --"}  # they name no namespace
POLYHEAD = r"(?:-- |bin/|&& )polyhead ([^']+)"
KINDS = {"deployment": "Deployment", "service": "Service", "job": "Job"}


def kubectl(*words: str) -> "subprocess.CompletedProcess[str]":
    """Without a cluster, and without one that the user has."""
    command = [
        beside_python("kubectl"),
        "--kubeconfig",
        "/dev/null",
        "--server",
        "http://127.0.0.1:1",
        *words,
    ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def secret(line: str) -> Object:
    """As kubectl makes it, its values by the shell."""
    (key,) = [each for each in LINES if each.startswith("export POLYHEAD_API_KEY=")]
    said = subprocess.run(
        ["bash", "-ec", f'{key}\nprintf "%s\\0" {line}'], capture_output=True, text=True, check=True
    )
    made = kubectl(*said.stdout.split("\0")[1:-1], "--dry-run=client", "--output", "yaml")
    assert not made.stderr
    found: Object = yaml.safe_load(made.stdout)
    return found


def with_overlays() -> Iterator[tuple[str, str]]:
    """Each command of kubectl, and the overlay that was applied before it."""
    overlay = ""
    for line in KUBECTL:
        applied = re.search(r"apply --kustomize k8s/overlays/(\S+)", line)
        overlay = applied[1] if applied else overlay
        if overlay and not applied:
            yield overlay, line


def test_every_file_that_a_command_names_is_there():
    named = set(re.findall(r"\bk8s/[\w./-]*\w", TEXT))
    assert "k8s/overlays/embedded" in named
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("line", [*KUBECTL, *INLINE])
def test_kubectl_understands_every_command_and_lacks_nothing_but_a_cluster(line: str) -> None:
    words = [word for word in shlex.split(line)[1:] if not word.startswith("$(")]
    if words[-1] == "mine":  # the overlay that the reader writes
        words[-1] = "k8s/overlays/embedded"
    said = kubectl(*words)
    assert said.returncode
    assert "refused" in said.stderr, said.stderr


@pytest.mark.parametrize("line", [*KUBECTL, *INLINE])
def test_every_command_acts_in_the_namespace_of_the_manifests(line: str) -> None:
    assert " --namespace polyhead " in line or any(each in line for each in OF_THE_CLUSTER)


@pytest.mark.parametrize(("overlay", "line"), list(with_overlays()))
def test_what_a_command_names_is_in_the_overlay_that_was_applied(overlay: str, line: str) -> None:
    objects = render(ROOT / "k8s" / "overlays" / overlay)
    for kind, name in re.findall(r"\b(deployment|service|job)[/ ](\S+)", line):
        assert name in names(objects, KINDS[kind])
        containers = re.findall(r"--container (\S+)", line)
        ports = [int(each) for each in re.findall(r"port-forward .* \d+:(\d+)", line)]
        for _, found in of_kind(objects, KINDS[kind]):
            if found["metadata"]["name"] == name:
                pod = found["spec"].get("template", {}).get("spec", {})
                assert set(containers) <= {each["name"] for each in pod.get("containers", [])}
                assert set(ports) <= {each["port"] for each in found["spec"].get("ports", [])}


def test_the_secrets_are_what_every_overlay_reads():
    made = [secret(line) for line in SECRETS]
    assert [each["metadata"]["name"] for each in made] == ["polyhead-keys", "polyhead-store", "polyhead-s3"]
    decoded = [each | {"stringData": _decoded(each["data"])} for each in made]
    for overlay in OVERLAYS:
        assert list(check_environment(render(ROOT / "k8s" / "overlays" / overlay), decoded)) == []


def test_the_images_that_are_built_are_those_of_the_overlays():
    built = {tag for line in LINES for tag in re.findall(r"docker build .*--tag (\S+)", line)}
    run = {
        container["image"]
        for overlay in OVERLAYS
        for _, each in of_kind(render(ROOT / "k8s" / "overlays" / overlay), "Deployment", "Job")
        for container in each["spec"]["template"]["spec"]["containers"]
    }
    assert run == built


@pytest.mark.parametrize("line", [line for line in LINES if re.search(POLYHEAD, line)])
def test_polyhead_understands_what_it_is_told(line: str) -> None:
    """Up to its last option: `--help`, after all the others, is answered before anything is done."""
    words = shlex.split(re.findall(POLYHEAD, line)[0])
    said = CliRunner().invoke(service.__main__.app, [*words, "--help"])
    assert said.exit_code == 0, said.output


def test_an_overlay_of_one_s_own_renders(tmp_path):
    (written,) = re.findall(r"```yaml\n# mine/kustomization.yaml\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kustomization.yaml").write_text(written, "utf-8")
    (tmp_path / "k8s").symlink_to(ROOT / "k8s")
    objects = render(tmp_path / "mine")
    assert "PrometheusRule" in {each["kind"] for each in objects}
    (deployment,) = [each for each in objects if each["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example.com/polyhead:0.1.0"
    maps = [each["data"] for each in objects if each["kind"] == "ConfigMap"]
    assert [each["POLYHEAD_LOG_LEVEL"] for each in maps if "POLYHEAD_PORT" in each] == ["warning"]
    assert [list(each) for each in maps if "POLYHEAD_PORT" not in each] == [["polyhead.json"]]


def _decoded(data: dict[str, str]) -> dict[str, str]:
    return {name: base64.b64decode(value).decode() for name, value in data.items()}
