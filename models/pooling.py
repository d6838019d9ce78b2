"""All stages of a backbone as one vector: statistics over positions, after the embedding. Imports torch.

Far from the pretraining data, earlier stages still say what the last one has dropped, and a linear head can
choose among them (Evci et al. 2022, Head2Toe: Utilizing Intermediate Representations for Better Transfer
Learning). Their roots are taken, which draws in long tails (Perronnin et al. 2010, Improving the Fisher
Kernel). Heads are fitted on these numbers: a change of what is computed needs another name of the output.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

MOST = 4096  # features: the exact head is fitted in their space, in time that grows with the cube
Statistic = Callable[[Tensor], Tensor]  # (N, P, C) -> (N, C), over P positions


def _deviation(rows: Tensor) -> Tensor:
    return (rows - rows.mean(dim=1, keepdim=True)).square().mean(dim=1).sqrt()


# in the order in which they are given up where a network is wide, the last ones first
STATISTICS: tuple[Statistic, ...] = (
    lambda rows: rows.mean(dim=1),
    _deviation,
    lambda rows: rows.amax(dim=1),
    lambda rows: rows.amin(dim=1),
)


def pool(embedding: Tensor, maps: Sequence[Tensor]) -> Tensor:
    """(N, D) and feature maps, earliest first -> (N, W) float32 signed roots, W <= MOST where D is.

    The last map is left out: the embedding says what it says. As many statistics as fit, the same ones of
    every map; where not even the means do, those of the last maps that do. A map is (N, C, S, S),
    (N, S, S, C) or (N, T, C); any other is left out.
    """
    rows = [positions(each) for each in maps[:-1] if _has_positions(each)]
    widths = [each.shape[2] for each in rows]
    room = MOST - embedding.shape[1]
    count = min(len(STATISTICS), room // max(1, sum(widths)))
    if count < 1:
        while rows and sum(widths) > room:
            rows, widths = rows[1:], widths[1:]
        count = 1
    parts = [statistic(each) for each in rows for statistic in STATISTICS[:count]]
    numbers = torch.cat([embedding.float(), *parts], dim=1)
    return numbers.sign() * numbers.abs().sqrt()


def positions(feature_map: Tensor) -> Tensor:
    """(N, P, C) float32: the channels of each position."""
    if feature_map.ndim == 3:
        return feature_map.float()
    _, first, second, third = feature_map.shape
    if second == third:  # (N, C, S, S); inputs are square
        return feature_map.float().flatten(2).transpose(1, 2)
    return feature_map.float().reshape(feature_map.shape[0], first * second, third)


def _has_positions(feature_map: Tensor) -> bool:
    if feature_map.ndim == 4:
        _, first, second, third = feature_map.shape
        return second in {first, third}
    return feature_map.ndim == 3
