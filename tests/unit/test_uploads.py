"""Multipart bodies: read whatever the chunks, refused whatever the trick."""

import asyncio
import errno
import os
import resource
import tempfile
from contextlib import contextmanager
from itertools import pairwise

import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st

from models.errors import PolyheadError
from service.errors import BodyTooLarge, InvalidField, MalformedRequest, StoreFull, TooManyImages
from service.web.uploads import WRITE_BYTES, Limits, open_form

CONTENT_TYPE = "multipart/form-data; boundary=xyz"
LIMITS = Limits(images=2, image_bytes=100, archive_bytes=50, fields=frozenset({"label"}))


def part(name, data=b"", filename=None):
    disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
    return b"--xyz\r\nContent-Disposition: " + disposition.encode() + b"\r\n\r\n" + data + b"\r\n"


def form(*parts):
    return b"".join(parts) + b"--xyz--\r\n"


def read(body, *, chunk=10**6, cuts=None, limits=LIMITS, content_type=CONTENT_TYPE, look=lambda form: form):
    """Parse a body that comes in chunks; `look` sees the form while it is open."""
    edges = [0, *(range(chunk, len(body), chunk) if cuts is None else cuts), len(body)]
    messages = [
        {"type": "http.request", "body": body[start:end], "more_body": True} for start, end in pairwise(edges)
    ]
    messages[-1]["more_body"] = False

    async def receive():
        return messages.pop(0)

    headers = [(b"content-type", content_type.encode("latin-1"))]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)

    async def go():
        async with open_form(request, limits) as opened:
            return look(opened)

    return asyncio.run(go())


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """The folder of temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 10**6])
def test_a_form_is_the_same_however_it_is_cut(chunk):
    body = form(
        part("label", "grün".encode()),
        part("file", b"a" * 40, "a.jpg"),
        part("file", b"\r\n--xy", "b.jpg"),
        part("label", b"2"),
    )
    parsed = read(body, chunk=chunk)
    assert parsed.fields == {"label": ["grün", "2"]}
    assert [(file.filename, file.data) for file in parsed.files] == [
        ("a.jpg", b"a" * 40),
        ("b.jpg", b"\r\n--xy"),
    ]
    assert parsed.archive is None


def test_an_archive_is_a_file_while_the_form_is_open():
    def look(opened):
        return opened.archive.path, opened.archive.path.read_bytes(), opened.archive.filename

    path, data, filename = read(form(part("archive", b"PK" * 20, "a.zip")), look=look)
    assert (data, filename) == (b"PK" * 20, "a.zip")
    assert not path.exists()


VALUES = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([b"", b"\r", b"\r\n", b"\r\n--", b"\r\n--xy", b"--xyz", b"\r\r\n-"]),
)
PARTS = st.one_of(
    VALUES.map(lambda data: part("file", data, "a.jpg")),
    st.text(max_size=9).map(lambda text: part("label", text.encode())),
    VALUES.map(lambda data: part("archive", data, "a.zip")),
)


@given(parts=st.lists(PARTS, max_size=4), cuts=st.lists(st.integers(0, 10**3)), end=st.booleans())
def test_what_becomes_of_a_form_is_the_same_however_it_is_cut(parts, cuts, end):
    """Also of one that breaks off, or has too much of something."""

    def look(opened):
        archive = opened.archive and (opened.archive.filename, opened.archive.path.read_bytes())
        return opened.files, opened.fields, archive

    def outcome(cuts):
        try:
            return read(body, cuts=cuts, look=look)
        except PolyheadError as error:
            return type(error), str(error)

    body = form(*parts) if end else b"".join(parts)
    assert outcome(sorted(cut for cut in cuts if cut <= len(body))) == outcome([])


@pytest.mark.parametrize("chunk", [1000, 2**16, 10**7])
def test_an_archive_is_whole_after_several_writes(chunk):
    data = os.urandom(2 * WRITE_BYTES + 12_345)
    limits = Limits(images=1, image_bytes=10, archive_bytes=len(data), fields=frozenset())
    body = form(part("archive", data, "a.zip"))
    assert read(body, chunk=chunk, limits=limits, look=lambda form: form.archive.path.read_bytes()) == data


ENDINGS = {
    "too large": (part("archive", b"a" * 51, "a.zip") + b"--xyz--", BodyTooLarge),
    "another archive": (form(*[part("archive", b"a", "a.zip")] * 2), InvalidField),
    "bad part behind it": (form(part("archive", b"a", "a.zip"), part("lable")), InvalidField),
    "no end": (part("archive", b"a", "a.zip"), MalformedRequest),
    "the route's own": (form(part("archive", b"a", "a.zip")), ZeroDivisionError),
}


@pytest.mark.parametrize(("body", "error"), ENDINGS.values(), ids=ENDINGS)
def test_no_archive_is_left_after_an_error(scratch, body, error):
    with pytest.raises(error):
        read(body, look=lambda form: 1 / 0)
    assert list(scratch.iterdir()) == []


def test_an_error_of_the_route_is_not_taken_for_a_full_disk():
    def look(opened):
        raise OSError(errno.ENOSPC, "elsewhere")

    with pytest.raises(OSError, match="elsewhere"):
        read(form(), look=look)


@contextmanager
def full_disk():
    """No file of this process may grow beyond 20 bytes; the tests' own log neither, so be brief."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_told_and_nothing_left(scratch):
    with full_disk(), pytest.raises(StoreFull):
        read(form(part("archive", b"a" * 50, "a.zip")))
    assert list(scratch.iterdir()) == []


FILENAMES = {
    "plain": (b'filename="a.jpg"', "a.jpg"),
    "utf-8": ('filename="grün.jpg"'.encode(), "grün.jpg"),
    "latin-1": ('filename="grün.jpg"'.encode("latin-1"), "grün.jpg"),
    "percent": (b'filename="100%22.jpg"', "100%22.jpg"),
    "quote": (rb'filename="a\"b;\\.jpg"', 'a"b;\\.jpg'),
    "path of windows": (rb'filename="C:\photos\a.jpg"', "a.jpg"),
    "two": (b"filename=a.jpg; filename*=utf-8''b.jpg", "a.jpg"),
    "empty": (b'filename=""', None),
}


@pytest.mark.parametrize(("said", "filename"), FILENAMES.values(), ids=FILENAMES)
def test_filenames_are_kept_as_they_come(said, filename):
    headers = b'content-disposition: form-data; name="file"; ' + said + b"\r\nContent-Type: image/jpeg"
    parsed = read(b"--xyz\r\n" + headers + b"\r\n\r\na\r\n--xyz--\r\n")
    assert [file.filename for file in parsed.files] == [filename]


@pytest.mark.parametrize("boundary", ["xyz", '"x y z"', "=_x/y:z", "x" * 70])
@pytest.mark.parametrize("written", ["boundary={}", "charset=utf-8; Boundary={} ; a=b"])
def test_any_boundary_is_found(boundary, written):
    content_type = "multipart/form-data; " + written.format(boundary)
    body = form(part("label", b"a")).replace(b"xyz", boundary.strip('"').encode())
    assert read(body, content_type=content_type).fields == {"label": ["a"]}


@pytest.mark.parametrize("parameter", ["", "; boundary=", '; boundary=""', "; boundary=" + "x" * 71])
def test_a_form_without_a_usable_boundary_is_refused(parameter):
    with pytest.raises(MalformedRequest, match="boundary"):
        read(form(), content_type="multipart/form-data" + parameter)


def test_line_ends_may_come_before_a_form_and_anything_behind_it():
    assert read(b"\r\n" + form(part("label", b"a")) + b"more", chunk=1).fields == {"label": ["a"]}


BAD = {
    "no end": (part("file", b"a", "a.jpg"), MalformedRequest),
    "cut in a header": (b"--xyz\r\nContent-Dispo", MalformedRequest),
    "another boundary": (b"--abc--\r\n", MalformedRequest),
    "nothing": (b"", MalformedRequest),
    "text before it": (b"text\r\n" + form(part("label", b"a")), MalformedRequest),
    "line feeds alone": (form(part("label", b"a")).replace(b"\r\n", b"\n"), MalformedRequest),
    "long header": (b"--xyz\r\nX: " + b"a" * 10_000, MalformedRequest),
    "many headers": (b"--xyz\r\n" + b"X: a\r\n" * 100, MalformedRequest),
    "no name": (b"--xyz\r\nContent-Disposition: form-data\r\n\r\nx\r\n--xyz--\r\n", MalformedRequest),
    "not utf-8": (form(part("label", b"\xff")), MalformedRequest),
    "latin-1": (form(part("label", "ü".encode("latin-1"))), MalformedRequest),
    "many files": (form(*[part("file", b"a", "a.jpg")] * 3), TooManyImages),
    "large file": (form(part("file", b"a" * 101, "a.jpg")), BodyTooLarge),
    "large files": (form(*[part("file", b"a" * 51, "a.jpg")] * 2), BodyTooLarge),
    "large archive": (form(part("archive", b"a" * 51, "a.zip")), BodyTooLarge),
    "two archives": (form(*[part("archive", b"a", "a.zip")] * 2), InvalidField),
    "unknown file": (form(part("image", b"a", "a.jpg")), InvalidField),
    "unknown field": (form(part("lable", b"a")), InvalidField),
    "file without a filename": (form(part("file", b"a")), InvalidField),
    "long field": (form(part("label", b"a" * 70_000)), MalformedRequest),
    "many fields": (form(*[part("label", b"a")] * 1001), MalformedRequest),
}


@pytest.mark.parametrize("chunk", [3, 10**6])
@pytest.mark.parametrize(("body", "error"), BAD.values(), ids=BAD)
def test_a_bad_form_is_refused(body, error, chunk):
    with pytest.raises(error) as caught:
        read(body, chunk=chunk)
    assert isinstance(caught.value, PolyheadError)


def test_an_archive_is_refused_where_none_is_read():
    limits = Limits(images=1, image_bytes=10, archive_bytes=0, fields=frozenset())
    with pytest.raises(InvalidField):
        read(form(part("archive", b"a", "a.zip")), limits=limits)


def test_a_field_that_is_given_twice_is_refused():
    with pytest.raises(InvalidField, match="2 times"):
        read(form(part("label", b"a"), part("label", b"b"))).one("label")
