from dataclasses import replace

import pytest
import torch
from torch import nn

from models.blocks import coarse_blocks
from models.calls import blank_images
from models.errors import InvalidOption, NoTail
from models.tail import most_blocks, split_at
from tests.networks import tiny
from tests.unit.ladder import ALL, backbone_of, family

SPLITS = {
    "resnet": ["layer3", "layer2", "layer1"],
    "torchvision resnet": ["layer3", "layer2", "layer1"],
    "efficientnet": [f"blocks.{number}" for number in range(5, -1, -1)],
    "mobilenetv3": [f"blocks.{number}" for number in range(4, -1, -1)],
    "convnext": ["stages.2", "stages.1", "stages.0"],
    "vit": ["blocks.2", "blocks.1", "blocks.0"],
    "dinov2": ["blocks.1", "blocks.0"],
    "dinov2 with registers": ["blocks.1", "blocks.0"],
    "swin": ["layers.2", "layers.1", "layers.0"],
}


@pytest.mark.parametrize("name", ALL)
def test_trunk_and_tail_give_the_embedding_at_every_split(name):
    backbone = family(name)
    blocks = coarse_blocks(backbone)
    with torch.no_grad():
        embedding, tapped = backbone.run(blank_images(backbone))
    assert most_blocks(backbone) == len(SPLITS[name])
    for count, stage in enumerate(SPLITS[name], start=1):
        split = split_at(backbone, count)
        with torch.no_grad():
            again = split.tail(tapped[stage])

        assert split.stage == stage
        assert split.shape == tuple(tapped[stage].shape[1:])
        assert float((again - embedding).abs().max()) <= 1e-4 * max(1.0, float(embedding.abs().max()))
        expected = {f"network.{name}" for block in blocks[-count:] for name in block.parameters}
        assert {name for name, _ in split.tail.named_parameters()} == expected


def test_a_tail_is_a_copy():
    """Training it moves nothing of the backbone."""
    backbone = family("efficientnet")
    before = {name: tensor.clone() for name, tensor in backbone.module.state_dict().items()}
    with torch.no_grad():
        for tensor in split_at(backbone, 2).tail.parameters():
            tensor.add_(1)

    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.module.state_dict().items())


def test_a_network_of_ones_own_is_split_at_its_stages():
    split = split_at(tiny(), 1)

    assert (split.stage, [block.name for block in split.blocks]) == ("stem", ["body"])


@pytest.mark.parametrize("blocks", [0, -1, 4])
def test_a_depth_that_the_network_has_not_is_named(blocks):
    with pytest.raises(InvalidOption, match="blocks must be between 1 and 3 for backbone ResNet"):
        split_at(family("resnet"), blocks)


def test_without_a_served_stage_there_is_no_tail():
    with pytest.raises(NoTail, match="no output of a stage is served; use strategy head or finetune"):
        split_at(replace(tiny(), stages=()), 1)


class Skipping(nn.Module):
    """The end needs the input as well, so that no stage's output is enough."""

    def __init__(self):
        super().__init__()
        self.early = nn.Conv2d(3, 3, 3, padding=1)
        self.late = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, images):
        return (self.late(self.early(images)) + images.flip(3)).mean(dim=(2, 3)) + images.amax(dim=(2, 3))


def test_a_network_that_needs_more_than_the_stage_is_refused():
    backbone = backbone_of(Skipping(), 16, stages=("early", "late"), features="pooled")

    with pytest.raises(NoTail, match="what follows stage early needs more than that stage's output"):
        split_at(backbone, 1)
