"""Strategy `last_block`: the last blocks train on cached feature maps of the frozen trunk. Imports torch."""

import copy
from dataclasses import replace

from models.dataset import Dataset
from models.strategies.attempt import Recipe
from models.strategies.options import LastBlockOptions
from models.strategies.sources import FeatureMaps, FeatureSource
from models.tail import Split


def last_block(
    dataset: Dataset,
    maps: FeatureMaps,
    split: Split,
    options: LastBlockOptions,
    *,
    total_backbone_parameters: int,
    device: str = "cpu",
) -> Recipe:
    """What `explore` and `finish` take.

    Args:   maps: (N, V, *split.shape) float16, the first view the image as it is; of `split.stage`,
            in the dataset's order.
    Raises: ValueError: they are of another shape.
    """
    if len(maps) != len(dataset) or maps.shape[2:] != split.shape:
        raise ValueError(f"feature maps {maps.shape} for {len(dataset)} examples of shape {split.shape}")
    return Recipe(
        strategy="last_block",
        dataset=dataset,
        source=FeatureSource(maps, average_flips=options.average_flips, device=device),
        build=lambda: copy.deepcopy(split.tail),
        blocks=tuple(
            replace(block, parameters=tuple(f"network.{name}" for name in block.parameters))
            for block in split.blocks
        ),
        options=options,
        total_backbone_parameters=total_backbone_parameters,
        exact_start=options.head_start == "exact",
        device=device,
    )
