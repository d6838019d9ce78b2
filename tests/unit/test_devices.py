"""Where a backbone runs: what the driver shows, and what was asked for."""

import pytest
import torch

from models import devices
from models.devices import chosen_devices, cuda_devices
from models.errors import BackboneError


@pytest.fixture
def shown(monkeypatch):
    """Let the driver show so many devices."""
    return lambda count: monkeypatch.setattr(devices, "cuda_devices", lambda: count)


def test_a_driver_is_asked_for_cuda_without_torch():
    assert cuda_devices() == torch.cuda.device_count()


@pytest.mark.parametrize("runtime", ["auto", "torch"])
def test_unasked_all_devices_are_taken_or_the_cpu_where_there_is_none(shown, runtime):
    shown(2)
    assert chosen_devices(runtime) == ("cuda:0", "cuda:1")
    shown(0)
    assert chosen_devices(runtime) == ("cpu",)


def test_those_that_were_named_are_taken_in_their_order(shown):
    shown(4)
    assert chosen_devices("auto", (3, 1)) == ("cuda:3", "cuda:1")


def test_a_device_that_is_not_there_is_named(shown):
    shown(1)
    with pytest.raises(BackboneError, match=r"^no CUDA device 1, 7: the driver shows 1$"):
        chosen_devices("auto", (0, 1, 7))


def test_openvino_stays_on_the_cpu_and_says_so(shown):
    shown(2)
    assert chosen_devices("openvino") == ("cpu",)
    with pytest.raises(BackboneError, match="openvino"):
        chosen_devices("openvino", (0,))
