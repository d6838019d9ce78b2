"""`make k8s-check` passes on the manifests as they are, and says what is wrong with each planted mistake."""

import copy
import shutil

import pytest

from k8s.check import FOLDER, MONITORING, check, check_all, check_dockerfile, main
from k8s.objects import CannotRender, render
from k8s.pods import check_security
from k8s.tools import ROOT
from tests.k8s.mistakes import INSECURE, MISTAKES, Objects

DOCKERFILE = ROOT / "Dockerfile"
pytestmark = pytest.mark.timeout(900)  # the first one fetches promtool and checkov


def test_nothing_is_wrong_with_the_manifests_and_the_dockerfile():
    assert list(check_all(FOLDER, DOCKERFILE)) == []


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_found(scale_out, mistake):
    mistake.plant(Objects(scale_out))
    problems = list(check(scale_out))
    assert any(mistake.said in problem for problem in problems), problems


def test_a_test_of_alerts_on_series_that_the_service_does_not_write_is_found(scale_out, tmp_path):
    shutil.copytree(FOLDER, tmp_path / "k8s")
    tests = tmp_path / "k8s" / MONITORING / "alerts.test.yaml"
    tests.write_text(tests.read_text("utf-8").replace(',method="POST"', ',verb="POST"'), "utf-8")
    problems = list(check(scale_out, tmp_path / "k8s"))
    assert 'alerts.test.yaml: the service writes no polyhead_requests_total{namespace="polyhead"' in str(
        problems
    )


@pytest.fixture(scope="module")
def findings(rendered):
    """What checkov says of an overlay with each mistake, in one run: it takes seconds to start."""
    overlays = {}
    for name, mistake in INSECURE.items():
        objects = copy.deepcopy(rendered["scale-out"])
        mistake.plant(Objects(objects))
        overlays[name] = objects
    return list(check_security(overlays))


@pytest.mark.parametrize("name", INSECURE)
def test_what_is_insecure_is_found(findings, name):
    said = [problem.partition(": ")[2] for problem in findings if problem.startswith(f"{name}: ")]
    assert any(INSECURE[name].said in problem for problem in said), said


@pytest.mark.parametrize(
    ("written", "meant", "rule"),
    [
        ("USER root", "USER 10001:10001", "DL3002"),
        ("CMD serve", 'CMD ["serve"]', "DL3025"),
        ("FROM python:latest AS polyhead", "FROM ${PYTHON_IMAGE} AS polyhead", "DL3007"),
        ("HEALTHCHECK --intervall=10s", "HEALTHCHECK --interval=10s", "invalid flag"),
    ],
    ids=["a root user", "a shell around the process", "an image without a version", "a wrong flag"],
)
def test_a_mistake_in_the_dockerfile_is_found(tmp_path, written, meant, rule):
    text = DOCKERFILE.read_text("utf-8")
    assert meant in text
    (tmp_path / "Dockerfile").write_text(text.replace(meant, written), "utf-8")
    assert rule in "\n".join(check_dockerfile(tmp_path / "Dockerfile"))


def test_the_command_says_what_is_wrong_and_fails(tmp_path, capsys):
    shutil.copytree(FOLDER, tmp_path / "k8s")
    server = tmp_path / "k8s" / "base" / "server.yaml"
    text = server.read_text("utf-8")
    server.write_text(text.replace("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"), "utf-8")
    assert main([str(tmp_path / "k8s")]) == 1
    said = capsys.readouterr().out
    assert "embedded: Deployment.polyhead.polyhead: Use read-only filesystem" in said
    assert said.splitlines()[-1].endswith("problems")


def test_what_cannot_be_rendered_is_said(tmp_path):
    (tmp_path / "kustomization.yaml").write_text("resourcs: [server.yaml]\n", "utf-8")
    with pytest.raises(CannotRender, match="resourcs"):
        render(tmp_path)
