"""Hostile and broken requests: each gets its error, and nothing else changes."""

import io
import resource
import struct
import zlib

import pytest
from PIL import Image

from tests.integration.routes.photos import COLOURS, data_uri, encoded, files, photo

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def unchanged(client, trained):
    """A task which must look after the test as it did before."""

    def state():
        return [
            client.get(f"/v1/tasks/{trained}{path}").json()
            for path in ("", "/examples?limit=500", "/runs", "/versions", "/aliases")
        ]

    before = state()
    yield trained
    assert state() == before


def png_bomb():
    """The header of a PNG of 225 megapixels, and next to nothing behind it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 15_000, 15_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def animated_gif():
    frames = [Image.new("RGB", (20, 20), colour) for colour in COLOURS.values()]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


BAD_FILES = {
    "empty": (b"", 422, "invalid_image"),
    "text": (b"this is text", 415, "unsupported_image"),
    "truncated": (photo("red", 0)[:400], 422, "invalid_image"),
    "bomb": (png_bomb(), 413, "image_too_large"),
    "gif": (animated_gif(), 415, "unsupported_image"),
    "bmp": (encoded(Image.new("RGB", (9, 9)), "BMP"), 415, "unsupported_image"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 415, "unsupported_image"),
    "zip": (b"PK\x03\x04" + bytes(100), 415, "unsupported_image"),
}


@pytest.mark.parametrize("path", ["/examples", "/predict"])
@pytest.mark.parametrize(("data", "status", "code"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_gets_its_own_error(client, unchanged, path, data, status, code):
    answer = client.post(f"/v1/tasks/{unchanged}{path}", files=files(data))
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.json()["status"] == status
    assert answer.json()["instance"] == f"/v1/tasks/{unchanged}{path}"


@pytest.mark.parametrize("path", ["/examples", "/predict"])
def test_a_form_without_a_file_is_refused(client, unchanged, path):
    answer = client.post(f"/v1/tasks/{unchanged}{path}", files=[("label", (None, "red"))])
    assert answer.status_code == 422
    assert "image" in answer.json()["detail"] or "label" in answer.json()["detail"]


def test_257_files_are_too_many(client, unchanged):
    answer = client.post(f"/v1/tasks/{unchanged}/examples", files=files(*[b"x"] * 257))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_many_images")


def test_a_label_that_is_not_utf8_is_refused(client, unchanged):
    body = (
        b'--b\r\nContent-Disposition: form-data; name="label"\r\n\r\n\xff\xfe\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
        + photo("red", 77)
        + b"\r\n--b--\r\n"
    )
    answer = client.post(
        f"/v1/tasks/{unchanged}/examples",
        content=body,
        headers={"Content-Type": "multipart/form-data; boundary=b"},
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")
    assert "UTF-8" in answer.json()["detail"]


@pytest.mark.parametrize("text", [b"\xff", b'"\\ud800"', b"{", b"", b"[" * 100_000])
@pytest.mark.parametrize("path", ["/examples", "/predict", "/runs", "/aliases/production"])
def test_a_body_that_is_no_json_is_refused(client, unchanged, path, text):
    method = "PUT" if "aliases" in path else "POST"
    answer = client.request(method, f"/v1/tasks/{unchanged}{path}", content=text, headers=JSON)
    assert answer.status_code in {400, 422}
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_json_that_is_called_a_form_is_415(client, unchanged):
    """What `curl -d` sends when nobody says otherwise."""
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = client.post(f"/v1/tasks/{unchanged}/runs", content=b'{"seed": 3}', headers=form)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_content_type")
    assert "application/json" in answer.json()["detail"]


def test_json_that_is_not_utf8_is_malformed(client, unchanged):
    answer = client.patch(f"/v1/tasks/{unchanged}", content=b'{"description": "\xff"}', headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")


def test_a_lone_surrogate_is_no_label(client, unchanged):
    body = b'{"examples": [{"image": "%s", "label": "\\ud800"}]}' % data_uri(photo("red", 78)).encode()
    answer = client.post(f"/v1/tasks/{unchanged}/examples", content=body, headers=JSON)
    assert answer.status_code in {400, 422}
    renamed = client.patch(f"/v1/tasks/{unchanged}", content=b'{"add_classes": ["\\ud800"]}', headers=JSON)
    assert renamed.status_code in {400, 422}
    described = client.patch(f"/v1/tasks/{unchanged}", content=b'{"description": "a\\u0000b"}', headers=JSON)
    assert described.status_code == 422


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "application/octet-stream", "", "video/mp4"],
)
@pytest.mark.parametrize(
    "path",
    [
        "/v1/tasks/{}/examples", "/v1/tasks/{}/predict", "/v1/embeddings", "/v1/predict", "/v1/tasks",
        "/v1/tasks/{}/runs",
    ],
)  # fmt: skip
def test_another_content_type_is_415(client, unchanged, path, content_type):
    answer = client.post(
        path.format(unchanged), content=photo("red", 0), headers={"Content-Type": content_type}
    )
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_content_type")


@pytest.mark.parametrize(
    "content_type",
    ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=other"],
)
@pytest.mark.parametrize("body", [b"", b"no boundary in here", b"--b\r\nno header", b"--b\r\n\r\n\r\n--b--"])
def test_a_broken_form_is_refused(client, unchanged, content_type, body):
    answer = client.post(
        f"/v1/tasks/{unchanged}/examples", content=body, headers={"Content-Type": content_type}
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request"), answer.text


def test_a_form_that_ends_too_soon_is_refused(client, unchanged):
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n' + photo("red", 79)
    answer = client.post(
        f"/v1/tasks/{unchanged}/examples",
        content=body,
        headers={"Content-Type": "multipart/form-data; boundary=b"},
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")


@pytest.mark.parametrize(
    ("parts", "word"),
    [
        ([("image", ("a.jpg", photo("red", 0)))], "'image'"),
        ([("file", ("a.jpg", photo("red", 0))), ("lable", (None, "red"))], "'lable'"),
        ([("file", (None, "text"))], "no filename"),
        ([("file", ("a.jpg", photo("red", 0))), ("split", (None, "holdout"))], "holdout"),
        (
            [("file", ("a.jpg", photo("red", 0))), ("split", (None, "test")), ("split", (None, "train"))],
            "2 times",
        ),
        ([("archive", ("a.zip", b"1")), ("archive", ("b.zip", b"2"))], "one archive"),
    ],
    ids=[
        "misspelt file",
        "misspelt field",
        "file without a name",
        "unknown split",
        "two splits",
        "two archives",
    ],
)
def test_a_part_that_is_not_read_is_named(client, unchanged, parts, word):
    answer = client.post(f"/v1/tasks/{unchanged}/examples", files=parts)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_field")
    assert word in answer.json()["detail"]


@pytest.mark.parametrize("url", ["http://127.0.0.1/x.jpg", "HTTPS://example.com/x.jpg"])
def test_images_by_url_are_switched_off(client, unchanged, url):
    for image in (url, {"type": "image_url", "image_url": {"url": url}}):
        answer = client.post(f"/v1/tasks/{unchanged}/predict", json={"input": image})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_field")
        assert "switched off" in answer.json()["detail"]


@pytest.mark.parametrize(
    "text", ["data:,", "data:image/png,abc", "data:image/png;base64", "data:;base64,%%", "ä"]
)
def test_a_string_that_holds_no_image_is_refused(client, unchanged, text):
    answer = client.post(f"/v1/tasks/{unchanged}/predict", json={"input": text})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_image")


@pytest.mark.parametrize("labels", [["x"] * 1001, ["x" * 70_000]], ids=["too many", "too long"])
def test_fields_are_bounded(client, unchanged, labels):
    answer = client.post(f"/v1/tasks/{unchanged}/examples", data={"label": labels}, files=files(b"x"))
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")


@pytest.fixture
def full_disk():
    """No file of this process may grow beyond a mebibyte."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_adds_nothing(client, service, unchanged, full_disk):
    large = photo("red", 98, format="PNG", size=800)
    assert len(large) > 2**20
    where = f"/v1/tasks/{unchanged}/examples"
    for answer in (
        client.post(where, files=files(photo("red", 97), large)),
        client.post(where, files={"archive": ("a.zip", large)}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (503, "store_full")
        assert answer.headers["Retry-After"] == "1"
    known = service.store.tasks.get("default", unchanged)
    blobs = service.settings.data_dir / "blobs/tenants/default/tasks" / known.id
    assert len(list((blobs / "images").glob("*"))) == 8


@pytest.mark.parametrize("path", ["/v1/tasks", "/v1/predict", "/v1/embeddings", "/v1/tasks/t/examples"])
@pytest.mark.parametrize("value", [b"1,", b"[],", b'"":{},', b"[[[["], ids=["lists", "empty", "keys", "deep"])
def test_a_small_json_body_of_very_many_values_is_413(client, task, path, value):
    """Each would take hundreds of bytes, and again in the complaint about it."""
    body = b'{"input": [' + value * 101_000
    path = path.replace("/t/", f"/{task}/")
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_many_values")
