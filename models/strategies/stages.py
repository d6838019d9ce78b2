"""Strategy `stages`: an exact head on what all stages of the backbone give, pooled. Imports torch.

Nothing of the backbone trains. Every flip of the augmentation is an example of its own to the fit; with
`average_flips`, answers are their mean.
"""

from torch import nn

from models.dataset import Dataset
from models.strategies.attempt import Recipe
from models.strategies.options import StagesOptions
from models.strategies.sources import FeatureMaps, FeatureSource
from models.tail import Split


def stages(
    dataset: Dataset,
    maps: FeatureMaps,
    split: Split,
    options: StagesOptions,
    *,
    total_backbone_parameters: int,
    device: str = "cpu",
) -> Recipe:
    """What `explore` and `finish` take.

    Args: maps: (N, V, W) float16, the first view the image as it is; split: of `models.tail.stages_of`.
    """
    return Recipe(
        strategy="stages",
        dataset=dataset,
        source=FeatureSource(maps, average_flips=options.average_flips, device=device),
        build=nn.Identity,
        blocks=(),
        options=options,
        total_backbone_parameters=total_backbone_parameters,
        exact_start=options.head_start == "exact",
        views=maps,
        width=split.shape[0],
        device=device,
    )
