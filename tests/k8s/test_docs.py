"""docs/kubernetes.md names what is there, and its overlay renders."""

import re

from k8s.objects import render
from k8s.tools import ROOT

TEXT = (ROOT / "docs" / "kubernetes.md").read_text("utf-8")


def test_every_file_that_a_command_names_is_there():
    named = set(re.findall(r"\bk8s/[\w./-]*\w", TEXT))
    assert "k8s/overlays/embedded" in named
    assert [path for path in named if not (ROOT / path).exists()] == []


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
