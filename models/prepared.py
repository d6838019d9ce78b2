"""A backbone that is ready to be opened, and what every runtime that opens one does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from models.arrays import FloatArray, UInt8Array
from models.errors import BackboneError
from models.identity import EMBEDDING, BackboneConfig, BackboneIdentity


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedBackbone:
    """A backbone whose graph lies in the cache, ready to be opened."""

    identity: BackboneIdentity
    onnx_path: Path  # backbone.onnx
    config: BackboneConfig


class Pass(Protocol):
    """A batch on its way through the backbone."""

    def wait_for_room(self) -> None:
        """Wait until another batch wouldn't have to wait for the whole of this one."""
        ...

    def outputs(self) -> dict[str, FloatArray]:
        """Wait for its end; once. As `Runtime.run` returns and raises."""
        ...


class Deferred:
    """A batch that is run when it is waited for, on a device that would hold up who begins it."""

    def __init__(self, run: Callable[[], dict[str, FloatArray]]) -> None:
        self._run = run
        self._made: dict[str, FloatArray] | None = None
        self._error: Exception | None = None

    def wait_for_room(self) -> None:
        if self._made is None and self._error is None:
            try:
                self._made = self._run()
            except Exception as error:  # noqa: BLE001  # whatever it is, `outputs` tells it
                self._error = error

    def outputs(self) -> dict[str, FloatArray]:
        self.wait_for_room()
        if self._error is not None:
            raise self._error
        assert self._made is not None
        return self._made


class Runtime(Protocol):
    """Runs one backbone."""

    identity: BackboneIdentity
    name: str  # "openvino" or "torch", with the device: "openvino cpu"

    def run(self, pixels: UInt8Array, outputs: Sequence[str] = (EMBEDDING,)) -> dict[str, FloatArray]:
        """Run a batch.

        Args:    pixels: (N, H, W, C) uint8 at the backbone's input size.
                 outputs: "embedding" and names of stages.
        Returns: each as float32, with N rows; the caller's to keep.
        Raises:  BackboneError: an output that the backbone doesn't have, or the device failed.
        """
        ...

    def begin(self, pixels: UInt8Array, outputs: Sequence[str] = (EMBEDDING,)) -> Pass:
        """As `run`, without waiting for it; the pixels must stay as they are till then."""
        ...


def check_outputs(identity: BackboneIdentity, outputs: Sequence[str]) -> None:
    """Raises: BackboneError for an output that the backbone doesn't have."""
    known = (EMBEDDING, *(stage.name for stage in identity.stages))
    for name in outputs:
        if name not in known:
            raise BackboneError(
                f"backbone {identity.name}: it has no output {name!r}, only {', '.join(known)}"
            )
