"""Uploads in batches: every photo gets its own result."""

import json

import pytest

from service.client.api import Client, Refused
from service.client.folder import Photo
from service.client.upload import batches, upload_photos
from service.layouts import Labelling
from tests.unit.answering import PROBLEM, Answer, Request, loaded, photos_in, quiet, serving


def test_a_batch_has_one_labelling_and_a_bounded_size():
    some = [
        loaded("1", "a"),
        loaded("2", "a"),
        loaded("3", "a"),
        loaded("4", "b"),
        loaded("5", "b", 40 * 2**20),
    ]
    sizes = [[one.photo.name for one in batch] for batch in batches(some, 2, alike=True)]
    assert sizes == [["1", "2"], ["3"], ["4"], ["5"]]
    mixed = [[one.photo.name for one in batch] for batch in batches(some, 9, alike=False)]
    assert mixed == [["1", "2", "3", "4"], ["5"]]


def test_a_batch_refused_as_a_whole_is_sent_in_halves_to_give_each_file_its_reason(tmp_path):
    def answer(request: Request) -> Answer:
        if b"bad" in request.body.replace(b"bad.jpg", b"") and request.photos > 1:
            return Answer(PROBLEM, 422)
        if b"\r\nbad" in request.body:
            return Answer(PROBLEM, 422)
        return Answer({"data": [{"index": i, "status": "created"} for i in range(request.photos)]}, 201)

    photos = photos_in(tmp_path, "a.jpg", "bad.jpg", "c.jpg")
    photos.append(Photo(tmp_path / "gone.jpg", "gone.jpg", Labelling(labels=("cat",))))
    with serving(answer) as url, Client(url) as client:
        tally = upload_photos(client, "cells", photos, batch=64, as_json=False, console=quiet())
    assert tally.created == 2
    assert dict(tally.failures) == {
        "bad.jpg": "422 invalid_image: the image can't be decoded: truncated",
        "gone.jpg": "No such file or directory",
    }
    assert tally.total == 4


def test_photos_labelled_one_by_one_go_as_json(tmp_path):
    bodies = list[dict]()

    def answer(request: Request) -> Answer:
        bodies.append(json.loads(request.body))
        data = [{"index": 0, "status": "created"}, {"index": 1, "status": "conflict", "error": None}]
        return Answer({"data": data}, 207)

    first, second = photos_in(tmp_path, "a.jpg", "b.jpg")
    photos = [
        Photo(first.path, "a.jpg", Labelling(value=1.5, group="g", split="test")),
        Photo(second.path, "b.jpg", Labelling(labels=())),
    ]
    with serving(answer) as url, Client(url) as client:
        tally = upload_photos(client, "cells", photos, batch=64, as_json=True, console=quiet())
    assert bodies[0]["examples"] == [
        {"image": "YS5qcGc=", "filename": "a.jpg", "value": 1.5, "group": "g", "split": "test"},
        {"image": "Yi5qcGc=", "filename": "b.jpg", "labels": []},
    ]
    assert (tally.created, tally.conflicts) == (1, [("b.jpg", "it has another label already, which stays")])


def test_an_authorisation_error_is_not_taken_for_a_bad_photo(tmp_path):
    with (
        serving(lambda _: Answer({"code": "unauthorized"}, 401)) as url,
        Client(url) as client,
        pytest.raises(Refused, match="401"),
    ):
        upload_photos(client, "cells", photos_in(tmp_path, "a.jpg"), batch=2, as_json=False, console=quiet())
