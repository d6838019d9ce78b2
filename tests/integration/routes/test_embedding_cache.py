"""An image that was sent before: the same answer, without decoding and without the backbone."""

from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY

from service.errors import Overloaded, WorkerFailed
from tests.integration.routes.keys import caller, keyed
from tests.integration.routes.local import Local
from tests.integration.routes.photos import data_uri, files, photo
from tests.integration.routes.test_tails import OPTIONS


@pytest.fixture(scope="module")
def service(open_service, tmp_path_factory) -> Iterator[Local]:
    """Answers with a cache; the tasks of these tests are trained in it."""
    folder = tmp_path_factory.mktemp("cached")
    with open_service(folder, resolve_cache_s=0, embedding_cache_bytes=2**20) as service:
        yield service


def scores(answer) -> list[object]:
    """What was answered for each image, without the id that each answer has of its own."""
    assert answer.status_code in {200, 207}, answer.text
    return answer.json()["predictions"]


def counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("polyhead_embedding_cache_total", {"outcome": outcome}) or 0.0


def stage(name: str) -> float:
    return REGISTRY.get_sample_value("polyhead_stage_seconds_count", {"stage": name}) or 0.0


@pytest.fixture
def plain(open_service, service) -> Iterator[Local]:
    """The same tasks served without a cache."""
    with open_service(service.settings.data_dir, resolve_cache_s=0) as plain:
        yield plain


def test_a_hit_answers_bit_for_bit_as_a_miss_and_as_a_server_without_a_cache(client, service, plain, trained):
    sent = files(photo("red", 100), photo("blue", 100), photo("red", 101))
    path = f"/v1/tasks/{trained}/predict"
    first, passed = scores(client.post(path, files=sent)), service.engine.images
    again = scores(client.post(path, files=sent))
    assert again == first == scores(plain.client.post(path, files=sent))
    assert service.engine.images == passed


def test_a_known_image_among_new_ones_keeps_its_place(client, service, plain, trained):
    path, known = f"/v1/tasks/{trained}/predict", photo("blue", 110)
    client.post(path, files=files(known))
    passed = service.engine.images
    sent = files(photo("red", 110), known, photo("red", 111), known)
    answer = client.post(path, files=sent)
    assert service.engine.images - passed == 2
    assert [each["label"] for each in scores(answer)] == ["red", "blue", "red", "blue"]
    assert scores(answer) == scores(plain.client.post(path, files=sent))


def test_embeddings_and_predictions_know_each_other_s_images(client, service, plain, trained):
    body = {"input": [data_uri(photo("red", 120)), data_uri(photo("blue", 120))]}
    scores(client.post(f"/v1/tasks/{trained}/predict", json=body))
    passed = service.engine.images
    embeddings = client.post("/v1/embeddings", json=body).json()
    assert service.engine.images == passed
    assert embeddings == plain.client.post("/v1/embeddings", json=body).json()


def test_a_known_embedding_that_no_head_waits_for_stays_out_of_the_queue(client, plain):
    images = [data_uri(photo(colour, 125)) for colour in ("red", "blue", "green")]
    client.post("/v1/embeddings", json={"input": images[1]})
    queued = stage("queue")
    answer = client.post("/v1/embeddings", json={"input": images})
    assert stage("queue") - queued == 1  # one job, of the two that are new
    assert answer.json() == plain.client.post("/v1/embeddings", json={"input": images}).json()


def test_however_an_image_is_sent_its_bytes_are_what_is_known(client, service, trained):
    image, path = photo("red", 130), f"/v1/tasks/{trained}/predict"
    first, passed = scores(client.post(path, files=files(image))), service.engine.images
    assert scores(client.post(path, json={"input": data_uri(image)})) == first
    assert scores(client.post(path, content=image, headers={"Content-Type": "image/jpeg"})) == first
    assert service.engine.images == passed


def test_one_image_to_many_tasks_is_known_to_all_of_them(client, service, plain, trained, new_task, train):
    other = new_task()
    for label in ("red", "green"):
        sent = files(*(photo(label, number) for number in range(4)))
        assert client.post(f"/v1/tasks/{other}/examples", files=sent, data={"label": label}).is_success
    train(other)
    body = {"tasks": [trained, other, "nobody"], "input": data_uri(photo("red", 140))}
    client.post("/v1/embeddings", json={"input": body["input"]})
    passed = service.engine.images
    answer = client.post("/v1/predict", json=body)
    assert answer.status_code == 207
    assert service.engine.images == passed
    assert answer.json()["results"] == plain.client.post("/v1/predict", json=body).json()["results"]


def test_a_bad_image_is_never_known_and_fails_the_same_each_time(client, trained):
    path, body = f"/v1/tasks/{trained}/predict", {"input": ["QUJD", data_uri(photo("red", 150)[:200])]}
    cache = client.app.state.parts.embedding_cache
    held = len(cache)
    first, again = (client.post(path, json=body) for _ in range(2))
    assert (first.status_code, first.json()["errors"]) == (again.status_code, again.json()["errors"])
    assert len(cache) == held


def test_a_bad_image_beside_known_ones_keeps_its_place(client, trained):
    path, known = f"/v1/tasks/{trained}/predict", data_uri(photo("blue", 151))
    body = {"input": [known, "QUJD", data_uri(photo("red", 151)), known]}
    first, again = (scores(client.post(path, json=body)) for _ in range(2))
    assert [each.get("label") for each in first] == ["blue", None, "red", "blue"]
    assert again == first


def test_an_image_whose_pass_failed_is_not_known(client, service, trained):
    path, sent = f"/v1/tasks/{trained}/predict", files(photo("red", 160))
    service.engine.fails_with = WorkerFailed()
    try:
        assert client.post(path, files=sent).status_code == 503
    finally:
        service.engine.fails_with = None
    passed = service.engine.images
    scores(client.post(path, files=sent))
    assert service.engine.images - passed == 1


def test_a_known_image_is_refused_where_its_head_would_have_to_wait(client, service, trained):
    path, sent = f"/v1/tasks/{trained}/predict", files(photo("red", 170))
    scores(client.post(path, files=sent))
    service.engine.fails_with = Overloaded()
    try:
        refused = client.post(path, files=sent)
        embedded = client.post("/v1/embeddings", files=sent)
    finally:
        service.engine.fails_with = None
    assert (refused.status_code, "Retry-After" in refused.headers) == (429, True)
    assert embedded.status_code == 200  # nothing of it is the worker's


def test_what_takes_more_of_the_backbone_than_its_embedding_goes_through_it(client, service, trained, train):
    """A tail takes the feature map of a stage: the image is decoded and passed each time."""
    train(trained, **OPTIONS, publish="always")
    sent = files(photo("red", 180))
    path = f"/v1/tasks/{trained}/predict"
    client.post("/v1/embeddings", files=sent)
    hits, passed = counted("hit"), service.engine.images
    first, again = (scores(client.post(path, files=sent)) for _ in range(2))
    assert first == again
    assert (counted("hit") - hits, service.engine.images - passed) == (0, 2)


def test_a_hit_is_counted_and_timed_as_any_request(client, trained):
    path, sent = f"/v1/tasks/{trained}/predict", files(photo("red", 190))
    scores(client.post(path, files=sent))
    hits, misses = counted("hit"), counted("miss")
    queued, ran = stage("queue"), stage("heads")
    scores(client.post(path, files=sent))
    assert (counted("hit") - hits, counted("miss") - misses) == (1, 0)
    assert (stage("queue") - queued, stage("heads") - ran) == (1, 1)


def test_nothing_is_known_of_what_another_tenant_has_sent(open_service, tmp_path):
    """Or the time of an answer would tell that somebody has it."""
    with keyed(open_service, tmp_path, embedding_cache_bytes=2**20) as service:
        acme, other = (caller(service, "admin", tenant=tenant) for tenant in ("acme", "other"))
        body = {"input": data_uri(photo("red", 200))}
        answers = [each.post("/v1/embeddings", json=body) for each in (acme, other, acme)]
        assert [answer.status_code for answer in answers] == [200] * 3
        assert service.engine.images == 2


def test_unless_it_is_asked_for_nothing_is_kept(plain):
    body = {"input": data_uri(photo("red", 210))}
    looked = counted("hit") + counted("miss")
    for _ in range(2):
        assert plain.client.post("/v1/embeddings", json=body).status_code == 200
    assert plain.engine.images == 2
    assert counted("hit") + counted("miss") == looked
