"""Low-rank factors and their head as one safetensors file: all that a task of strategy lora owns.

    <layer>.lora_A.default.weight   (rank, in) or, of a pointwise convolution, (rank, in, 1, 1)
    <layer>.lora_B.default.weight   (out, rank) or (out, rank, 1, 1)
    head.weight (C, D), head.bias (C,)

A layer's weight is the backbone's, plus alpha / rank times B @ A. Loads no torch.
"""

import json
from collections.abc import Mapping, Sequence

import numpy as np
from safetensors.numpy import save

from models.arrays import FloatArray
from models.head import LinearHead

FORMAT = "1"  # of names and metadata


def factors_file(
    factors: Mapping[str, FloatArray],
    head: LinearHead,
    *,
    rank: int,
    alpha: float,
    stage: str,
    targets: Sequence[str],
    backbone_digest: str,
) -> bytes:
    """Args: stage: of the backbone, that the tail begins at; targets: the layers that have factors."""
    tensors = {name: np.ascontiguousarray(value) for name, value in factors.items()}
    tensors |= {"head.weight": head.weight, "head.bias": head.bias}
    data: bytes = save(
        tensors,
        metadata={
            "polyhead_factors": FORMAT,
            "rank": str(rank),
            "alpha": f"{alpha:g}",
            "stage": stage,
            "targets": json.dumps(targets),
            "kind": head.kind,
            "labels": json.dumps(head.labels, ensure_ascii=False),
            "backbone_digest": backbone_digest,
        },
    )
    return data
