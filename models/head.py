"""What a trained head is: one linear map from an embedding to its task's answers, or an MLP's two."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from models.arrays import FloatArray

SMALL = 2**20  # bytes of a head whose session shall hold little: weights packed for the CPU double it

Kind = Literal["multiclass", "multilabel", "regression"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearHead:
    """Logits of raw embeddings; the standardisation it was fitted with is folded in."""

    kind: Kind
    labels: tuple[str, ...]  # in logit order; () for regression
    weight: FloatArray  # (C, D); C is 1 for regression
    bias: FloatArray  # (C,)

    @property
    def parameters(self) -> int:
        return int(self.weight.size + self.bias.size)

    def logits(self, embeddings: FloatArray) -> FloatArray:
        """(N, D) float32 -> (N, C) float32."""
        return (embeddings @ self.weight.T + self.bias).astype(np.float32)

    def predict(self, embeddings: FloatArray) -> FloatArray:
        """(N, D) float32 -> (N, C) probabilities, or the (N, 1) value of a regression, float32."""
        return answers(self.kind, self.logits(embeddings))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HiddenLayer:
    """What an MLP has below its LinearHead; the standardisation it was trained with is folded in."""

    weight: FloatArray  # (H, D)
    bias: FloatArray  # (H,)

    @property
    def parameters(self) -> int:
        return int(self.weight.size + self.bias.size)

    def features(self, embeddings: FloatArray) -> FloatArray:
        """(N, D) float32 -> (N, H) float32, after a ReLU."""
        return np.asarray(np.maximum(embeddings @ self.weight.T + self.bias, 0), dtype=np.float32)


def answers(kind: Kind, logits: FloatArray) -> FloatArray:
    """Logits (N, C) of any float type -> softmax, sigmoid, or as they are, in the same type."""
    if kind == "multiclass":
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=logits.dtype)
    if kind == "multilabel":
        # tanh, not 1 / (1 + exp(-x)): it cannot overflow
        return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)), dtype=logits.dtype)
    return logits
