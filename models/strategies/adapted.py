"""The network that a gradient strategy trains: part of a backbone, and a linear head on it. Imports torch."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from models.arrays import FloatArray
from models.blocks import Block
from models.dataset import Targets
from models.head import Kind, LinearHead

NOTHING = 1e-6  # a feature's spread, of the largest one's, at which it counts as constant
NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)  # noqa: SLF001 - no public base


class ScaledHead(nn.Linear):
    """A linear head on standardised embeddings, answering standardised values of a regression.

    Adam moves every weight at about the same speed, so that features of very different spread, as networks
    have them, would be learned at very different ones. `folded` gives the head of raw embeddings.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__(width, outputs)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.centre = 0.0  # of the values of a regression
        self.spread = 1.0

    def forward(self, embeddings: Tensor) -> Tensor:
        return super().forward((embeddings - self.mean) / self.scale)

    def answers(self, logits: Tensor) -> Tensor:
        """Standardised values -> values; logits as they are."""
        return logits * self.spread + self.centre

    def folded(self, kind: Kind, labels: tuple[str, ...]) -> LinearHead:
        with torch.no_grad():
            weight = self.weight.double() / self.scale.double()  # (C, D)
            bias = self.bias.double() - weight @ self.mean.double()
            weight, bias = weight * self.spread, bias * self.spread + self.centre
        return LinearHead(
            kind=kind,
            labels=labels,
            weight=weight.float().cpu().numpy().copy(),
            bias=bias.float().cpu().numpy().copy(),
        )


def started_from(head: LinearHead, embeddings: FloatArray, targets: Targets) -> ScaledHead:
    """The same answers as `head`, in coordinates standardised on its training examples.

    Args: embeddings: (n, D); targets: (n, …), both of those examples.
    """
    scaled = ScaledHead(head.weight.shape[1], head.weight.shape[0])
    mean, scale = embeddings.mean(axis=0, dtype=np.float64), embeddings.std(axis=0, dtype=np.float64)
    # as models/strategies/basis.py: an example's squared norm is 1 on average, so that a step of the head
    # moves the logits equally far at any width
    scale = np.where(scale > NOTHING * scale.max(initial=0), scale, 1.0) * np.sqrt(len(scale))
    if head.kind == "regression":
        scaled.centre, scaled.spread = float(targets.mean()), float(targets.std()) or 1.0
    weight = head.weight.astype(np.float64)
    bias = (head.bias + weight @ mean - scaled.centre) / scaled.spread
    with torch.no_grad():
        scaled.mean.copy_(torch.from_numpy(mean))
        scaled.scale.copy_(torch.from_numpy(scale))
        scaled.weight.copy_(torch.from_numpy(weight * scale / scaled.spread))
        scaled.bias.copy_(torch.from_numpy(bias))
    return scaled


def random_head(kind: Kind, width: int, outputs: int, targets: Targets) -> ScaledHead:
    """As torch initialises one, from its global generator; embeddings as they come."""
    scaled = ScaledHead(width, outputs)
    if kind == "regression":
        scaled.centre, scaled.spread = float(targets.mean()), float(targets.std()) or 1.0
    return scaled


class Adapted(nn.Module):
    """Inputs -> embedding -> logits, thawed from the end."""

    def __init__(self, network: nn.Module, blocks: Sequence[Block], head: ScaledHead) -> None:
        super().__init__()
        self.network = network
        self.head = head
        self.blocks = tuple(blocks)  # those that may train, earliest first; names in `network`

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.network(inputs))
        return logits

    def thaw(self, depth: int, *, norms_train: bool) -> None:
        """Let the head and the last `depth` blocks train, and nothing else.

        What is frozen is in eval mode, dropout included, so that running statistics stand still.

        Args: norms_train: batch-norm layers of thawed blocks follow the batches; otherwise only their
              weights train.
        """
        thawed = {name for block in self.blocks[len(self.blocks) - depth :] for name in block.parameters}
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name in thawed)
        self.head.requires_grad_(requires_grad=True)
        self.head.training = True
        self._set_modes(self.network, around=False, norms_train=norms_train)

    def _set_modes(self, module: nn.Module, *, around: bool, norms_train: bool) -> None:
        """A module trains where all its parameters do; one without any as the module around it."""
        parameters = [*module.parameters()]
        trains = all(each.requires_grad for each in parameters) if parameters else around
        module.training = trains and (norms_train or not isinstance(module, NORMS))
        for child in module.children():
            self._set_modes(child, around=trains, norms_train=norms_train)

    def state(self) -> dict[str, Tensor]:
        """A copy of all that training may have moved."""
        return {name: tensor.detach().clone() for name, tensor in self.state_dict().items()}
