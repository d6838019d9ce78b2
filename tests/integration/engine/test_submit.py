"""Images through the real worker: one batch for all, heads from the store."""

import hashlib
import itertools
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from models.backbone import build_backbone
from models.export import head_metadata, head_onnx
from models.graph import embed
from models.head import LinearHead
from models.identity import PIXELS
from models.runtime import PreparedBackbone, open_runtime
from models.tail import Tail
from models.tuned_export import network_onnx
from service.settings import Settings
from service.store.blobs import Blobs
from tests.servers import TINY, Server, serving


@pytest.fixture(scope="module")
def server(command, tmp_path_factory) -> Iterator[Server]:
    with serving(
        tmp_path_factory.mktemp("submit"),
        command=command,
        api_processes="2",
        LIT_SERVER_API_KEY="a-key-that-nobody-has",
    ) as started:
        yield started


@pytest.fixture
def client(server) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def expected(prepared, pixels) -> np.ndarray:
    """(20, D): what the same runtime gives in this process."""
    runtime = open_runtime(
        PreparedBackbone(
            identity=prepared.identity,
            onnx_path=prepared.backbone_file,
            config=Settings(backbone=TINY).backbone_config,
        )
    )
    return runtime.run(pixels)["embedding"]


def publish(server: Server, identity, number: int, *, tamper: bool = False) -> tuple[str, str, LinearHead]:
    """Store a head's file as a trainer does; returns its digest, its key and the head."""
    rng = np.random.default_rng(number)
    head = LinearHead(
        kind="multiclass",
        labels=("a", "b", "c"),
        weight=rng.normal(size=(3, identity.embedding_dim)).astype(np.float32),
        bias=rng.normal(size=3).astype(np.float32),
    )
    metadata = head_metadata(
        task="task", version=number, kind=head.kind, labels=head.labels, identity=identity
    )
    data = head_onnx(head, metadata=metadata)
    return *store(server, data, tamper=tamper), head


def store(server: Server, data: bytes, *, tamper: bool = False) -> tuple[str, str]:
    digest = hashlib.sha256(data).hexdigest()
    key = f"tenants/default/tasks/task_1/heads/{digest}.onnx"
    Blobs((server.data_dir / "blobs").as_uri()).put_new(key, b"damaged" if tamper else data)
    return digest, key


def submit(client: httpx.Client, pixels: np.ndarray, *heads: tuple[str, ...], **said: str) -> dict[str, list]:
    params = {"heads": json.dumps(heads)} | said
    response = client.post("/submit", params=params, content=pixels.tobytes())
    assert response.status_code == 200, response.text
    return response.json()


def metric(client: httpx.Client, name: str, labels: str = "[^}]*") -> float:
    found = re.findall(rf"^{name}(?:{{{labels}}})? (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return sum(map(float, found))


def test_a_request_larger_than_a_batch_comes_back_whole_and_in_order(client, pixels, expected):
    answer = submit(client, pixels)
    assert np.allclose(answer["embeddings"], expected, atol=1e-5)


def test_heads_answer_beside_each_other_and_each_failure_stays_its_own(
    client, server, prepared, pixels, expected
):
    digest, key, head = publish(server, prepared.identity, 1)
    elsewhere = publish(server, replace(prepared.identity, weights_digest="f" * 64), 2)[:2]
    damaged = publish(server, prepared.identity, 3, tamper=True)[:2]
    missing = ("0" * 64, "tenants/default/tasks/task_1/heads/none.onnx")
    good, other, bad, gone = submit(client, pixels, (digest, key), elsewhere, damaged, missing)["outputs"]
    assert np.allclose(good, head.predict(expected), atol=1e-5)
    assert "was fitted on backbone" in other
    assert "not those that were published" in bad
    assert "holds nothing at" in gone


def test_a_head_is_read_from_the_store_once(client, server, prepared, pixels):
    digest, key, _ = publish(server, prepared.identity, 4)
    first = submit(client, pixels[:1], (digest, key))
    Blobs((server.data_dir / "blobs").as_uri()).delete(key)
    assert submit(client, pixels[:1], (digest, key)) == first


def test_heads_that_are_asked_for_together_again_and_again_answer_as_ever(
    client, server, prepared, pixels, expected
):
    """From the third time on they are put into one session, by onnx, which nothing else there needs."""
    heads = [publish(server, prepared.identity, 100 + number) for number in range(10)]
    maps = Path(f"/proc/{server.pid_of('polyhead-worker')}/maps")
    assert "/onnx/" not in maps.read_text()
    end = time.monotonic() + 20
    for _ in itertools.count():
        outputs = submit(client, pixels[:3], *(head[:2] for head in heads))["outputs"]
        for output, (_, _, head) in zip(outputs, heads, strict=True):
            assert np.allclose(output, head.predict(expected[:3]), atol=1e-5)
        if "/onnx/" in maps.read_text():
            break
        assert time.monotonic() < end
    assert submit(client, pixels[:3], *(head[:2] for head in heads))["outputs"] == outputs


def test_requests_of_many_tasks_share_backbone_passes(client, server, prepared, pixels, expected):
    """What comes while the worker is busy; here, while it stands still."""
    heads = [publish(server, prepared.identity, 10 + number) for number in range(16)]
    passes, images = (
        metric(client, "polyhead_backbone_passes_total"),
        metric(client, "polyhead_backbone_images_total"),
    )

    def ask(index: int) -> list[list[float]]:
        with server.client() as own:
            return submit(own, pixels[index : index + 1], heads[index][:2])["outputs"][0]

    worker = server.pid_of("polyhead-worker")
    os.kill(worker, signal.SIGSTOP)
    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(ask, index) for index in range(16)]
        try:
            end = time.monotonic() + 10
            while metric(client, "polyhead_queued_images") < 16:
                assert time.monotonic() < end
                time.sleep(0.02)
        finally:
            os.kill(worker, signal.SIGCONT)
        answers = [each.result() for each in asked]
    for index, answer in enumerate(answers):
        assert np.allclose(answer, heads[index][2].predict(expected[index : index + 1]), atol=1e-5)
    assert metric(client, "polyhead_backbone_images_total") - images == 16
    assert metric(client, "polyhead_backbone_passes_total") - passes <= 16 / 8 + 1


def test_a_caller_that_goes_away_leaves_nothing_behind(client):
    assert client.post("/give-up").json() == {"held": 0, "shelved": 0}


def test_an_idle_engine_is_alive(client):
    assert client.get("/alive").json()["alive"] is True


@pytest.mark.parametrize("path", ["/health", "/info", "/predict", "/inference", "/"])
def test_no_route_of_litserve_is_there_and_its_api_key_guards_nothing(client, path):
    assert client.get(path).status_code == 404
    assert client.post(path).status_code == 404
    assert client.get("/alive").status_code == 200


def test_no_process_that_serves_http_has_torch(client):
    assert not {"torch", "timm"} & set(client.get("/modules").json())


def test_a_network_of_a_tasks_own_answers_beside_the_backbone_and_without_it(client, server, prepared):
    """At an input size of its own, in the same worker; the backbone's images don't grow for it."""
    backbone = replace(build_backbone(Settings(backbone=TINY).backbone_config), input_size=40)
    head = publish(server, prepared.identity, 30)[2]
    metadata = head_metadata(
        task="own", version=1, kind=head.kind, labels=head.labels, identity=prepared.identity, output=PIXELS
    )
    data = network_onnx(backbone, Tail(backbone.module, backbone.features), head, metadata=metadata)
    own = (*store(server, data), PIXELS)
    pixels = np.random.default_rng(1).integers(0, 256, (11, 40, 40, 3), np.uint8)
    before = metric(client, "polyhead_backbone_images_total")

    answer = submit(client, pixels, own, size="40", embeddings="0")
    refused = submit(client, pixels[:, :32, :32], own)["outputs"][0]

    assert answer["embeddings"] is None
    assert np.allclose(answer["outputs"][0], head.predict(embed(backbone, pixels)), atol=1e-5)
    assert "refuses pixels" in refused
    assert metric(client, "polyhead_backbone_images_total") - before == 11  # of the second request
    assert metric(client, "polyhead_head_cache_bytes", '[^}]*kind="network"[^}]*') == len(data)


def test_images_that_the_backbone_does_not_take_fail_their_own_request(client, server, prepared, pixels):
    digest, key, _ = publish(server, prepared.identity, 31)
    odd = np.zeros((1, 31, 31, 3), np.uint8)

    def ask(index: int) -> tuple[int, str]:
        own = odd if index == 0 else pixels[index : index + 1]
        params = {"heads": json.dumps([(digest, key)]), "size": str(own.shape[1])}
        with server.client() as one:
            response = one.post("/submit", params=params, content=own.tobytes())
        return response.status_code, response.text

    with ThreadPoolExecutor(6) as pool:
        (status, said), *good = pool.map(ask, range(6))
    assert status == 500
    assert "the backbone failed" in said
    assert [code for code, _ in good] == [200] * 5
