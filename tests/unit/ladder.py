"""Small networks of every family, with random weights, as backbones."""

from dataclasses import replace

import numpy as np
import timm
import torch
import torchvision
from torch import nn

from models.backbone import PRE_LOGITS, Backbone, _coarse_stages, _served_stages
from models.graph import PixelGraph, embed
from models.views import flipped
from tests.unit.datasets import DIGITS, make_dataset

FAMILIES = {
    "resnet": ("resnet18", 64, {}),
    "efficientnet": ("tf_efficientnet_lite0", 64, {}),
    "mobilenetv3": ("mobilenetv3_small_050", 64, {}),
    "convnext": ("convnext_atto", 64, {}),
    "vit": ("vit_tiny_patch16_224", 32, {"img_size": 32, "depth": 4}),
    "dinov2": ("vit_small_patch14_dinov2", 28, {"img_size": 28, "depth": 3}),
    "dinov2 with registers": ("vit_small_patch14_reg4_dinov2", 28, {"img_size": 28, "depth": 3}),
    "swin": ("swin_tiny_patch4_window7_224", 56, {"img_size": 56, "depths": (1, 1, 2, 1), "embed_dim": 24}),
}


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def stirred(network):
    """Random batch-norm statistics and layer scales, so that no layer is an identity."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for name, tensor in network.state_dict().items():
            if name.endswith(("running_mean", "bn.bias", "gamma")):
                tensor.copy_(torch.rand_like(tensor) * 0.2)
    return network


def backbone_of(module, size, stages=None, **fields):
    given = {
        "module": module.eval().requires_grad_(False),
        "input_size": size,
        "channels": 3,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "interpolation": "bilinear",
        "stages": stages if stages is not None else _coarse_stages(module),
        "features": PRE_LOGITS,
        "name": type(module).__name__,
    }
    return Backbone(**given | fields)


def family(name):
    if name == "torchvision resnet":
        network = seeded(torchvision.models.resnet18)
        network.fc = nn.Identity()
        stages = ("layer1", "layer2", "layer3", "layer4")
        return backbone_of(stirred(network), 64, stages, features="pooled")
    timm_name, size, options = FAMILIES[name]
    network = seeded(lambda: timm.create_model(timm_name, **options))
    network.reset_classifier(0)
    backbone = backbone_of(stirred(network), size)
    return replace(backbone, stages=_served_stages(backbone))


ALL = (*FAMILIES, "torchvision resnet")


def scans(backbone, count=400, classes=4):
    """(N, size, size, 3) uint8: scikit-learn's digits, enlarged; and their classes."""
    rows = np.flatnonzero(DIGITS.target < classes)[:count]
    enlarged = np.kron(DIGITS.images[rows] * 15, np.ones((backbone.input_size // 8,) * 2))
    return enlarged.astype(np.uint8)[..., None].repeat(backbone.channels, axis=3), DIGITS.target[rows]


def embedded(backbone, pixels, kind, targets, labels, **fields):
    return make_dataset(kind, labels, embed(backbone, pixels), targets, **fields)


def feature_maps(backbone, pixels, stage, views):
    """(N, V, *shape) float16, as the trainer's scratch would hold them."""
    images = PixelGraph(backbone)
    at = 1 + backbone.stages.index(stage)
    with torch.no_grad():
        found = [images(torch.from_numpy(flipped(pixels, view)))[at].half().numpy() for view in views]
    return np.stack(found, axis=1)


class Ticking:
    """A clock that moves on by a second whenever it is read."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1
        return self.now
