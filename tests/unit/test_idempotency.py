"""The digest of a body as it streams by."""

import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.web.idempotency import BodyHash

cuts = st.lists(st.integers(0, 400), max_size=8)


def digest(body, content_type, cuts=()):
    hashing = BodyHash(content_type)
    edges = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    for start, end in itertools.pairwise(edges):
        hashing.update(body[start:end])
    return hashing.hexdigest()


def form(boundary, data):
    return b"--" + boundary + b"\r\nname\r\n\r\n" + data + b"\r\n--" + boundary + b"--\r\n"


@given(data=st.binary(max_size=100), cuts=cuts)
def test_a_body_is_the_same_however_it_is_cut(data, cuts):
    assert digest(data, "application/json", cuts) == hashlib.sha256(data).hexdigest()


@given(data=st.binary(max_size=100), cuts=cuts, other_cuts=cuts)
def test_a_form_is_the_same_with_another_boundary(data, cuts, other_cuts):
    first = digest(form(b"aaaa", data), "multipart/form-data; boundary=aaaa", cuts)
    second = digest(form(b"Xy0Xy", data), 'multipart/form-data; boundary="Xy0Xy"', other_cuts)
    if b"aaaa" not in data and b"Xy0Xy" not in data:
        assert first == second


@given(data=st.binary(max_size=50), other=st.binary(max_size=50))
def test_another_content_is_another_digest(data, other):
    content_type = "multipart/form-data; boundary=gr5ljq8vm"
    same = digest(form(b"gr5ljq8vm", data), content_type) == digest(form(b"gr5ljq8vm", other), content_type)
    assert same == (data == other)


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=", ""])
def test_a_form_without_a_boundary_is_hashed_as_it_is(content_type):
    assert digest(b"--a--", content_type) == hashlib.sha256(b"--a--").hexdigest()
