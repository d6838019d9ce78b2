"""The classifier that a network was pretrained with, found among its weights. Imports torch."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from models.domain import Classifier

FEWEST_CLASSES = 100  # of fewer, how sure it is says little about a domain


def find_classifier(network: Any) -> str:
    """The dotted name of a timm network's linear layer from embedding to classes; "" where it has none."""
    layer = network.get_classifier()  # some give a tuple, or an identity
    return next((name for name, each in network.named_modules() if each is layer and _linear(each)), "")


def take_classifier(tensors: Mapping[str, Tensor], name: str) -> Classifier | None:
    """The layer of that name, None where the tensors don't hold it or it has few classes."""
    weight, bias = tensors.get(f"{name}.weight"), tensors.get(f"{name}.bias")
    if not name or weight is None or weight.ndim != 2 or len(weight) < FEWEST_CLASSES:
        return None
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    return Classifier(weight=weight.float().numpy().copy(), bias=bias.float().numpy().copy())


def _linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)
