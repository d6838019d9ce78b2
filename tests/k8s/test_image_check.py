"""What `make image-check` finds wrong in an image, on small ones: the whole takes ten minutes."""

import os

import pytest

from k8s.image.contents import check_contents
from tests.k8s.image_mistakes import MISTAKES, small_image

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="an image's files are several users', which needs root, as image-check does"
)


@pytest.fixture
def image(tmp_path):
    return small_image(tmp_path / "root")


def problems(image) -> list[str]:
    return [f"{name}: {each}" for name, found in check_contents(image) for each in found]


def test_nothing_is_wrong_with_a_sound_image(image):
    assert problems(image) == []


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_found(image, mistake):
    mistake.plant(image)
    found = problems(image)
    assert any(mistake.said in each for each in found), found
