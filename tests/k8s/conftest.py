"""The overlays, rendered once; a test that changes one gets a copy."""

import copy
from collections.abc import Callable

import pytest

from k8s.check import FOLDER, OVERLAYS
from k8s.objects import Object, render

Find = Callable[[str], Object]


@pytest.fixture(scope="session")
def rendered() -> dict[str, list[Object]]:
    return {name: render(FOLDER / "overlays" / name) for name in OVERLAYS}


@pytest.fixture
def scale_out(rendered: dict[str, list[Object]]) -> list[Object]:
    return copy.deepcopy(rendered["scale-out"])
