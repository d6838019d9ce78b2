"""All stages of a backbone as one vector: statistics over positions, after the embedding. Imports torch.

Far from the pretraining data, earlier stages still say what the last one has dropped, and a linear head can
choose among them (Evci et al. 2022, Head2Toe: Utilizing Intermediate Representations for Better Transfer
Learning). Their roots are taken, which draws in long tails (Perronnin et al. 2010, Improving the Fisher
Kernel). Heads are fitted on these numbers: a change of what is computed needs another name of the output.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MOST = 4096  # features: the exact head is fitted in their space, in time that grows with the cube

Axes = tuple[int, ...]
Statistic = Callable[[Tensor, Axes], Tensor]  # (N, …) -> (N, C)


@dataclass(frozen=True, slots=True)
class Layout:
    """Which axes of a feature map are what."""

    channels: int
    positions: Axes


def _deviation(values: Tensor, axes: Axes) -> Tensor:
    return (values - values.mean(axes, keepdim=True)).square().mean(axes).sqrt()


# in the order in which they are given up where a network is wide, the last ones first
STATISTICS: tuple[Statistic, ...] = (Tensor.mean, _deviation, Tensor.amax, Tensor.amin)


def pool(embedding: Tensor, maps: Sequence[Tensor]) -> Tensor:
    """(N, D) and feature maps, earliest first -> (N, W) float32 signed roots, W <= MOST where D is.

    The last map is left out: the embedding says what it says. As many statistics as fit, the same ones of
    every map; where not even the means do, those of the last maps that do. A map is (N, C, S, S),
    (N, S, S, C) or (N, T, C); any other is left out.
    """
    known = [(each.float(), layout) for each in maps[:-1] if (layout := _layout(each)) is not None]
    widths = [each.shape[layout.channels] for each, layout in known]
    room = MOST - embedding.shape[1]
    count = min(len(STATISTICS), room // max(1, sum(widths)))
    if count < 1:
        while known and sum(widths) > room:
            known, widths = known[1:], widths[1:]
        count = 1
    parts = [statistic(each, layout.positions) for each, layout in known for statistic in STATISTICS[:count]]
    numbers = torch.cat([embedding.float(), *parts], dim=1)
    return numbers.sign() * numbers.abs().sqrt()


def _layout(feature_map: Tensor) -> Layout | None:
    """Maps are reduced as they lie: transposed first, pooling cost a CPU 18 % of a pass instead of 11 %."""
    if feature_map.ndim == 3:
        return Layout(channels=2, positions=(1,))
    if feature_map.ndim == 4:
        _, first, second, third = feature_map.shape
        if second == third:  # inputs are square
            return Layout(channels=1, positions=(2, 3))
        if first == second:
            return Layout(channels=3, positions=(1, 2))
    return None
