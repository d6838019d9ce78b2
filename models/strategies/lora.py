"""Strategy `lora`: low-rank updates of the tail's linear and pointwise layers. Imports torch and peft.

Under 1 % of the backbone's parameters train, the head not counted. A task keeps the factors; what is served
and exported has them merged into the layers.
"""

import copy
import re
from dataclasses import replace
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from models.arrays import FloatArray
from models.blocks import Block
from models.dataset import Dataset
from models.strategies.attempt import Recipe
from models.strategies.finish import TunedFit
from models.strategies.options import LoraOptions
from models.strategies.sources import FeatureMaps, FeatureSource
from models.tail import Split, targets
from models.tails import check_rank


def lora(
    dataset: Dataset,
    maps: FeatureMaps,
    split: Split,
    options: LoraOptions,
    *,
    total_backbone_parameters: int,
    device: str = "cpu",
) -> Recipe:
    """What `explore` and `finish` take; arguments as of `last_block`. Raises: as `check_rank`."""
    check_rank(options.rank, sum(targets(split.tail).values()), total_backbone_parameters)
    adapters = tuple(name for name, _ in _adapted(split, options).named_parameters() if ".lora_" in name)
    return Recipe(
        strategy="lora",
        dataset=dataset,
        source=FeatureSource(maps, average_flips=options.average_flips, device=device),
        build=lambda: _adapted(split, options),
        blocks=(Block(name="lora", parameters=adapters),),
        options=options,
        total_backbone_parameters=total_backbone_parameters,
        exact_start=options.head_start == "exact",
        device=device,
    )


def merged(tuned: TunedFit) -> TunedFit:
    """The same answers from a tail without adapters, and the factors beside it."""
    factors: dict[str, FloatArray] = {
        name: parameter.detach().cpu().numpy().copy()
        for name, parameter in tuned.network.named_parameters()
        if ".lora_" in name
    }
    network: Any = copy.deepcopy(tuned.network)
    for name, module in list(network.named_modules()):
        if isinstance(module, LoraLayer):
            layer: Any = module
            layer.merge(safe_merge=True)  # refuses factors that aren't finite
            owner, _, own = name.rpartition(".")
            setattr(network.get_submodule(owner), own, layer.get_base_layer())
    return replace(tuned, network=network.eval().requires_grad_(requires_grad=False), factors=factors)


def _adapted(split: Split, options: LoraOptions) -> nn.Module:
    # anchored: peft matches a plain list of names by their endings, and so other layers too
    pattern = "^(" + "|".join(re.escape(name) for name in targets(split.tail)) + ")$"
    config = LoraConfig(
        r=options.rank, lora_alpha=options.alpha, target_modules=pattern, lora_dropout=0.0, bias="none"
    )
    tail: nn.Module = inject_adapter_in_model(config, copy.deepcopy(split.tail))
    return tail.to(torch.float32).eval()
