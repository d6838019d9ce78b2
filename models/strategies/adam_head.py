"""Strategy `head` by gradient: a linear head or an MLP, trained on the cached embeddings. Imports torch.

A linear head is for comparison: the exact one needs no learning rate and is fitted sooner. An MLP is for what
no linear map can tell apart.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from models.arrays import FloatArray, IntArray
from models.blocks import Block
from models.dataset import Dataset
from models.head import HiddenLayer
from models.strategies.attempt import Recipe
from models.strategies.basis import standardisation
from models.strategies.budget import Clock
from models.strategies.finish import fit
from models.strategies.head import FitResult
from models.strategies.options import AdamHeadOptions, TrainingOptions
from models.strategies.sources import EmbeddingSource
from models.strategies.training import Report


class Hidden(nn.Module):
    """(n, D) embeddings -> (n, H) after a ReLU.

    Standardised first, or features of a small spread would be learned last.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, units)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def forward(self, embeddings: Tensor) -> Tensor:
        sums: Tensor = self.linear((embeddings - self.mean) / self.scale)
        return sums.relu()

    def standardise(self, embeddings: FloatArray) -> None:
        """Args: embeddings: (n, D), of the examples that it will train on."""
        mean, scale = standardisation(embeddings)
        self.mean.copy_(torch.from_numpy(mean))
        self.scale.copy_(torch.from_numpy(scale))

    def folded(self) -> HiddenLayer:
        """The same layer of raw embeddings."""
        weight = self.linear.weight.detach().double() / self.scale.double()  # (H, D)
        bias = self.linear.bias.detach().double() - weight @ self.mean.double()
        return HiddenLayer(weight=weight.float().cpu().numpy(), bias=bias.float().cpu().numpy())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AdamFit:
    fit: FitResult  # whose head takes what `hidden` gives, if there is one
    hidden: HiddenLayer | None
    network: nn.Module  # embeddings -> what the head takes, by torch: what a file is held against


def adam_head(
    dataset: Dataset, options: AdamHeadOptions, *, total_backbone_parameters: int, device: str = "cpu"
) -> Recipe:
    """What `explore` and `finish` take."""
    width, units = dataset.embeddings.shape[1], options.hidden
    same: dict[str, Any] = {
        "strategy": "head",
        "dataset": dataset,
        "source": EmbeddingSource(dataset.embeddings, device=device),
        "options": training_options(options),
        "exact_start": False,
        "device": device,
    }
    if units is None:
        return Recipe(
            **same, build=nn.Identity, blocks=(), total_backbone_parameters=total_backbone_parameters
        )

    def prepare(network: Hidden, rows: IntArray) -> None:
        network.standardise(dataset.embeddings[rows])

    return Recipe(
        **same,
        build=lambda: Hidden(width, units),
        blocks=(Block(name="hidden", parameters=("linear.weight", "linear.bias")),),
        total_backbone_parameters=total_backbone_parameters + units * (width + 1),
        width=units,
        prepare=prepare,
    )


def training_options(options: AdamHeadOptions) -> TrainingOptions:
    """For the one training loop: random weights, one rate for all, nothing to warm up or to augment."""
    own = {name: value for name, value in asdict(options).items() if name not in ("solver", "hidden")}
    return TrainingOptions(**own, warmup_epochs=0, head_start="random", decay=1.0, augmentation="none")


def fit_adam_head(
    dataset: Dataset,
    options: AdamHeadOptions,
    *,
    total_backbone_parameters: int,
    report: Report,
    clock: Clock | None = None,
    min_examples_per_class: int = 2,
) -> AdamFit:
    """Train and evaluate a head; arguments and errors as of `fit`."""
    recipe = adam_head(dataset, options, total_backbone_parameters=total_backbone_parameters)
    tuned = fit(recipe, report=report, clock=clock, min_examples_per_class=min_examples_per_class)
    decision = tuned.fit.decision | {"solver": options.solver, "options": asdict(options)}
    network = tuned.network
    return AdamFit(
        fit=replace(tuned.fit, decision=decision),
        hidden=network.folded() if isinstance(network, Hidden) else None,
        network=network,
    )
