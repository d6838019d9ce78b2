"""Many heads in one session, so that not each has one of its own, which is mostly memory to read."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import compose

from models.arrays import FloatArray
from models.errors import InvalidHead
from models.head_session import open_session
from models.identity import EMBEDDING

SCORES = ("probabilities", "value")


class HeadGroup:
    """The graphs of some heads, side by side on one embedding; each computes what it does alone.

    Args:   files: the bytes of each head.onnx, as `HeadSession` takes it.
    Raises: InvalidHead: they can't be put together.
    """

    def __init__(self, files: Sequence[bytes]) -> None:
        together, self._outputs = _merged([onnx.load_from_string(data) for data in files])
        self._session = open_session(together.SerializeToString(), 1, light=True)

    def run(self, embeddings: FloatArray) -> list[FloatArray]:
        """(N, D) -> for each head, in order: (N, C) probabilities or (N, 1) values, float32."""
        made = self._session.run(self._outputs, {EMBEDDING: embeddings})
        return [np.asarray(each, dtype=np.float32) for each in made]


def _merged(models: Sequence[onnx.ModelProto]) -> tuple[onnx.ModelProto, list[str]]:
    """One model, and the name of each one's scores in it."""
    parts = [
        compose.add_prefix(model, f"{number}/", rename_inputs=False) for number, model in enumerate(models)
    ]
    first, *others = parts
    scores = list[str]()
    for number, part in enumerate(parts):
        if [each.name for each in part.graph.input] != [EMBEDDING] or part.opset_import != first.opset_import:
            raise InvalidHead("it is made otherwise than others, and can't be put together with them")
        wanted = [f"{number}/{name}" for name in SCORES]
        scores += [each.name for each in part.graph.output if each.name in wanted]
    for part in others:
        first.graph.node.extend(part.graph.node)
        first.graph.initializer.extend(part.graph.initializer)
        first.graph.output.extend(part.graph.output)
    return first, scores
