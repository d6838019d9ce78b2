"""Images in JSON: every accepted shape, and nothing else."""

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.errors import InvalidImage
from service.errors import InvalidField
from service.schemas.images import PIXEL, WithImages
from service.web.images import ImageRequest, bytes_of


@pytest.mark.parametrize(
    "said",
    [
        "QUJD",
        {"image": "QUJD"},
        {"type": "image_url", "image_url": {"url": "QUJD"}},
        {"type": "image_url", "image_url": {"url": "QUJD", "detail": "low"}},
        {"image": {"type": "image_url", "image_url": {"url": "QUJD"}}},
    ],
)
def test_every_shape_is_reduced_to_its_string(said):
    assert WithImages(input=said).input == ["QUJD"]
    assert WithImages(input=[said, said]).input == ["QUJD", "QUJD"]


@pytest.mark.parametrize(
    "said",
    [
        None, 7, "", {}, [[]], {"image": None}, {"image": "QUJD", "more": 1}, {"url": "QUJD"},
        {"image": {"image": "QUJD"}}, {"type": "image_url", "image_url": "QUJD"}, {"type": "text"},
    ],
)  # fmt: skip
def test_other_shapes_are_refused(said):
    with pytest.raises(ValidationError, match=r'{"type": "image_url", "image_url": {"url": …}}'):
        WithImages(input=[said])


@given(st.binary(max_size=200))
def test_base64_and_data_uris_give_the_bytes_back(data):
    text = base64.b64encode(data).decode()
    for said in (text, f"data:image/jpeg;base64,{text}", text.rstrip("="), base64.encodebytes(data).decode()):
        assert bytes_of(said) == data
    assert bytes_of(base64.urlsafe_b64encode(data).decode()) == data
    assert bytes_of(data) is data


@given(st.text(max_size=50))
def test_any_text_is_bytes_or_a_clear_error(text):
    with contextlib.suppress(InvalidImage, InvalidField):
        assert isinstance(bytes_of(text), bytes)


@pytest.mark.parametrize("text", ["%%%", "a", "ä", "data:image/png,QUJD", "data:image/png;base64", "QU=JD"])
def test_a_string_that_is_no_base64_is_no_image(text):
    with pytest.raises(InvalidImage):
        bytes_of(text)


@pytest.mark.parametrize("url", ["http://x/y.jpg", "https://x/y.jpg", "HTTP://x"])
def test_urls_are_not_fetched(url):
    with pytest.raises(InvalidField, match="switched off"):
        bytes_of(url)


def test_the_pixel_of_the_examples_is_an_image():
    assert bytes_of(PIXEL).startswith(b"\x89PNG")


def test_images_are_pointed_at_where_they_stand():
    assert ImageRequest([], None, ("input",)).pointer(3) == "/input/3"
    assert ImageRequest([], None, ()).pointer(0) == ""
