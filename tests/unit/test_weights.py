import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.errors import BackboneError
from models.weights import find_weights, misfit, read_tensors, shown_name, timm_name

TENSORS = {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.ones(2)}


@pytest.mark.parametrize(
    "name", ["efficientnet_lite0", "tf_efficientnet_lite0", "tf_efficientnet_lite0.in1k"]
)
def test_the_default_backbone_has_a_package_under_each_of_its_names(name):
    source = find_weights(name, None)

    assert source.kind == "package"
    assert source.path.name == "efficientnet-lite0-57934424.pth"
    assert shown_name(name) == "efficientnet_lite0"
    assert timm_name(name) == "tf_efficientnet_lite0"


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_lite2", "efficientnet_lite0.ra_in1k"])
def test_without_a_package_or_a_file_it_is_the_hub(name):
    assert find_weights(name, None).kind == "hub"


def test_a_file_goes_before_the_package(tmp_path):
    path = tmp_path / "mine.pth"
    path.write_bytes(b"")

    source = find_weights("efficientnet_lite0", path)

    assert (source.kind, source.path) == ("file", path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BackboneError, match=r"backbone resnet18: there is no weights file .*lost\.pth"):
        find_weights("resnet18", tmp_path / "lost.pth")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_both_formats_are_read(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    save_file(TENSORS, path) if suffix == ".safetensors" else torch.save(TENSORS, path)

    tensors = read_tensors(path, "mine")

    assert list(tensors) == list(TENSORS) or sorted(tensors) == sorted(TENSORS)
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize(
    "wrap", [lambda tensors: {"state_dict": tensors, "epoch": 3}, lambda tensors: {"model": tensors}]
)
def test_a_training_checkpoint_is_unwrapped(tmp_path, wrap):
    path = tmp_path / "checkpoint.pth"
    torch.save(wrap({f"module.{name}": tensor for name, tensor in TENSORS.items()}), path)

    assert read_tensors(path, "mine").keys() == TENSORS.keys()


class Burglar:
    def __init__(self, door: Path):
        self.door = door

    def __reduce__(self):
        return Path.touch, (self.door,)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_code_in_a_pickle_is_not_run(tmp_path, legacy):
    door, path = tmp_path / "opened", tmp_path / "weights.pth"
    torch.save({"weight": Burglar(door)}, path, _use_new_zipfile_serialization=not legacy)

    with pytest.raises(BackboneError, match="may run code"):
        read_tensors(path, "mine")

    assert not door.exists()


def written(path, content):
    path.write_bytes(content)
    return path


def torch_bytes(tmp_path, value=TENSORS):
    path = tmp_path / "whole.pth"
    torch.save(value, path)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "content",
    [
        lambda _: b"",
        lambda _: b"these are no weights",
        lambda folder: torch_bytes(folder)[:300],
        lambda _: pickle.dumps({"a": 1}),
    ],
    ids=["empty", "text", "truncated", "plain-pickle"],
)
def test_a_damaged_file_is_one_clear_line(tmp_path, content, suffix):
    path = written(tmp_path / f"weights{suffix}", content(tmp_path))

    with pytest.raises(BackboneError) as caught:
        read_tensors(path, "mine")

    assert str(caught.value).startswith(f"backbone mine: {path} ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value", [{}, {"epoch": 3}, [torch.ones(2)], torch.ones(2)], ids=["empty", "numbers", "list", "tensor"]
)
def test_a_file_of_something_else_is_refused(tmp_path, value):
    path = written(tmp_path / "weights.pth", torch_bytes(tmp_path, value))

    with pytest.raises(BackboneError):
        read_tensors(path, "mine")


def test_what_does_not_fit_is_named():
    needed = {"a": torch.ones(2), "b": torch.ones(2), "c": torch.ones(2, 3)}
    tensors = {"c": torch.ones(3, 2), "d": torch.ones(1)}

    assert misfit(tensors, needed) == (
        "tensors: 2 missing (a, b); 1 unknown (d); 1 of another shape (c is (3, 2), needed (2, 3))"
    )
    assert misfit(needed, needed) is None
