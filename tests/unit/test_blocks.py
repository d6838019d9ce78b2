from collections import Counter
from dataclasses import replace

import pytest
import timm
from torch import nn

from models.blocks import coarse_blocks, count_parameters, parameter_groups
from tests.networks import tiny
from tests.unit.ladder import ALL, backbone_of, family

NAMES = {
    "resnet": ["stem", "layer1", "layer2", "layer3", "layer4"],
    "torchvision resnet": ["stem", "layer1", "layer2", "layer3", "layer4"],
    "efficientnet": ["stem", *(f"blocks.{number}" for number in range(7))],
    "mobilenetv3": ["stem", *(f"blocks.{number}" for number in range(6))],
    "convnext": ["stem", *(f"stages.{number}" for number in range(4))],
    "vit": ["stem", *(f"blocks.{number}" for number in range(4))],
    "dinov2": ["stem", *(f"blocks.{number}" for number in range(3))],
    "dinov2 with registers": ["stem", *(f"blocks.{number}" for number in range(3))],
    "swin": ["stem", *(f"layers.{number}" for number in range(4))],
}
STEMS = {
    "resnet": {"conv1", "bn1"},
    "torchvision resnet": {"conv1", "bn1"},
    "efficientnet": {"conv_stem", "bn1"},
    "mobilenetv3": {"conv_stem", "bn1"},
    "convnext": {"stem"},
    "vit": {"cls_token", "pos_embed", "patch_embed"},
    "dinov2": {"cls_token", "pos_embed", "patch_embed"},
    "dinov2 with registers": {"cls_token", "reg_token", "pos_embed", "patch_embed"},
    "swin": {"patch_embed"},
}
TAILS = {
    "efficientnet": {"blocks", "conv_head", "bn2"},
    "mobilenetv3": {"blocks", "conv_head"},
    "convnext": {"stages", "head"},
    "vit": {"blocks", "norm"},
    "swin": {"layers", "norm"},
}


def tops(block):
    return {name.partition(".")[0] for name in block.parameters}


@pytest.mark.parametrize("name", ALL)
def test_every_parameter_is_in_exactly_one_block(name):
    backbone = family(name)
    blocks = coarse_blocks(backbone)
    counts = Counter(parameter for block in blocks for parameter in block.parameters)

    assert [block.name for block in blocks] == NAMES[name]
    assert counts == Counter(name for name, _ in backbone.module.named_parameters())


@pytest.mark.parametrize("name", ALL)
def test_a_stems_norm_goes_with_the_stem_and_a_final_one_with_the_last_block(name):
    blocks = coarse_blocks(family(name))

    assert tops(blocks[0]) == STEMS[name]
    if name in TAILS:
        assert tops(blocks[-1]) == TAILS[name]


def test_a_network_of_ones_own_is_grouped_by_its_declared_stages():
    """The stage that is first in order has nothing before it: there is no empty stem."""
    assert [block.name for block in coarse_blocks(tiny())] == ["stem", "body"]


def test_a_parameter_between_two_stages_goes_with_the_one_it_feeds():
    backbone = tiny()
    between = nn.Sequential()
    for name, child in backbone.module.named_children():
        between.add_module(name, child)
        if name == "stem":
            between.add_module("norm", nn.BatchNorm2d(8).eval())
    blocks = coarse_blocks(replace(backbone, module=between))

    assert [(block.name, sorted(tops(block))) for block in blocks] == [
        ("stem", ["stem"]),
        ("body", ["body", "norm"]),
    ]


def test_without_stages_the_network_is_one_block():
    (block,) = coarse_blocks(replace(tiny(), stages=()))

    assert len(block.parameters) == 4


def test_discriminative_rates_and_counts_are_those_taught_for_resnet50():
    network = timm.create_model("resnet50")
    network.reset_classifier(0)
    backbone = backbone_of(network, 64)
    head = nn.Linear(2048, 37)
    blocks = coarse_blocks(backbone)
    groups = parameter_groups(blocks, network, head, 1e-3, 0.3)

    assert [f"{group['lr']:.2e}" for group in groups] == [
        "2.43e-06",
        "8.10e-06",
        "2.70e-05",
        "9.00e-05",
        "3.00e-04",
        "1.00e-03",
    ]
    assert [group["name"] for group in groups] == ["stem", "layer1", "layer2", "layer3", "layer4", "head"]
    tensors = [id(tensor) for group in groups for tensor in group["params"]]
    assert len(tensors) == len(set(tensors)) == len([*network.parameters(), *head.parameters()])

    counted = count_parameters(network, head)
    assert (counted.trainable, counted.total) == (75_813, 23_583_845)
    assert counted.parameters == {"head.weight": 75_776, "head.bias": 37}
