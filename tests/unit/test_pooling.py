"""All stages as one vector: which numbers, of which maps, and the same from every runtime."""

import numpy as np
import pytest
import torch

from models.graph import PixelGraph, identify
from models.identity import POOLED
from models.pooling import MOST, pool
from tests.unit.ladder import ALL, family


def numbers(rows):
    """(N, P, C) -> (N, 4 C): roots of mean, deviation, maximum and minimum over the positions."""
    return roots(np.concatenate([rows.mean(1), rows.std(1), rows.max(1), rows.min(1)], axis=1))


def roots(values):
    return np.sign(values) * np.sqrt(np.abs(values))


@pytest.fixture
def drawn():
    return np.random.default_rng(3)


def test_each_map_gives_mean_deviation_maximum_and_minimum_of_its_channels(drawn):
    rows = drawn.normal(size=(2, 25, 3)).astype(np.float32)
    embedding = torch.zeros(2, 4)
    last = torch.ones(2, 7, 1, 1)
    layouts = {
        "channels first": rows.transpose(0, 2, 1).reshape(2, 3, 5, 5),
        "channels last": rows.reshape(2, 5, 5, 3),
        "tokens": rows,
    }
    for name, layout in layouts.items():
        found = pool(embedding, [torch.from_numpy(layout.copy()), last]).numpy()
        np.testing.assert_allclose(found[:, 4:], numbers(rows), atol=1e-5, err_msg=name)


def test_the_last_map_is_left_to_the_embedding(drawn):
    embedding = drawn.normal(size=(2, 4)).astype(np.float32)
    found = pool(torch.from_numpy(embedding), [torch.ones(2, 3, 5, 5)])
    np.testing.assert_allclose(found, roots(embedding), rtol=1e-6)


def test_a_vector_has_no_positions_and_is_left_out():
    found = pool(torch.zeros(2, 4), [torch.ones(2, 9), torch.ones(2, 3, 5, 5), torch.ones(2, 8, 1, 1)])
    assert found.shape == (2, 4 + 4 * 3)


@pytest.mark.parametrize(
    ("channels", "width"),
    [
        ((100, 200), 96 + 4 * 300),
        ((600, 600), 96 + 3 * 1200),
        ((1500, 1500), 96 + 3000),
        ((3000, 3900), 96 + 3900),
    ],
    ids=["all", "without the minimum", "means", "means of the last"],
)
def test_a_wide_network_gives_fewer_numbers_of_each_channel(channels, width):
    maps = [torch.ones(2, count, 2, 2) for count in (*channels, 5)]
    assert pool(torch.zeros(2, 96), maps).shape == (2, width)
    assert width <= MOST


@pytest.mark.parametrize("name", ALL)
def test_every_family_serves_its_stages_pooled(name):
    backbone = family(name)
    size = (3, backbone.input_size, backbone.input_size, backbone.channels)
    pixels = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    with torch.no_grad():
        embedding, *_, pooled = PixelGraph(backbone)(torch.from_numpy(pixels))
    assert identify(backbone, "fp32").pooled == pooled.shape[1]
    np.testing.assert_allclose(pooled[:, : embedding.shape[1]], roots(embedding.numpy()), rtol=1e-6)
    assert embedding.shape[1] < pooled.shape[1] <= MOST
    assert POOLED not in backbone.stages
