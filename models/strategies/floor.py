"""The exact head as a rung of the ladder: what every other rung has to beat. Imports torch."""

from torch import nn

from models.dataset import Dataset
from models.strategies.attempt import Recipe
from models.strategies.options import TrainingOptions
from models.strategies.sources import EmbeddingSource


def head_rung(dataset: Dataset, *, seed: int, total_backbone_parameters: int) -> Recipe:
    """What `explore` takes; nothing trains beyond the head's exact start.

    So it answers the same validation examples as the rungs that train by gradient, split by the same seed.
    """
    return Recipe(
        strategy="head",
        dataset=dataset,
        source=EmbeddingSource(dataset.embeddings),
        build=nn.Identity,
        blocks=(),
        options=TrainingOptions(seed=seed, epochs=0, warmup_epochs=0),
        total_backbone_parameters=total_backbone_parameters,
    )
