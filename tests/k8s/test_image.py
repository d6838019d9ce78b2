"""What the image installs is what the project asks for."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from k8s.tools import ROOT

LOCKS = ("requirements.lock", "requirements-cuda.lock")


def locked() -> dict[str, str]:
    text = "".join((ROOT / name).read_text("utf-8") for name in LOCKS)
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ]+)", text, re.MULTILINE))


def test_every_dependency_is_locked_at_a_version_that_is_asked_for():
    """After a change of the dependencies: make lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = [Requirement(each) for each in project["dependencies"] + extras["lora"] + extras["postgres"]]
    there = locked()
    wrong = [
        str(each)
        for each in asked
        if (
            each.marker is None
            or each.marker.evaluate({"sys_platform": "linux", "platform_machine": "x86_64"})
        )
        and not each.specifier.contains(there.get(canonicalize_name(each.name), "0"))
    ]
    assert wrong == []


@pytest.mark.parametrize("name", LOCKS)
def test_everything_locked_has_its_digests(name):
    entries = re.split(r"^(?=[a-z])", (ROOT / name).read_text("utf-8"), flags=re.MULTILINE)[1:]
    assert [each.split()[0] for each in entries if "--hash=sha256:" not in each] == []


def test_torch_and_what_is_cuda_s_is_in_the_lock_of_cuda_alone():
    names = re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text("utf-8"), re.MULTILINE)
    assert [each for each in names if re.match("torch|triton|nvidia-|cuda-", each)] == []
