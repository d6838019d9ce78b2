"""What runs a backbone: OpenVINO on a CPU, torch on CUDA. Importing this loads no torch."""

from models.devices import CPU, chosen_devices
from models.identity import EMBEDDING
from models.openvino_runtime import OpenVinoRuntime
from models.prepared import PreparedBackbone, Runtime

__all__ = ["EMBEDDING", "PreparedBackbone", "Runtime", "open_runtime"]


def open_runtime(prepared: PreparedBackbone) -> Runtime:
    """Open the runtime that the config names; auto is torch on a CUDA device and for fp16, else OpenVINO.

    Raises: BackboneError: it can't run the backbone at the precision of its identity, or on this device.
    """
    config = prepared.config
    device = config.device or chosen_devices(config.runtime)[0]
    fits_torch = device != CPU or prepared.identity.precision == "fp16"  # which OpenVINO has on few CPUs
    if config.runtime == "torch" or (config.runtime == "auto" and fits_torch):
        from models.torch_runtime import TorchRuntime  # noqa: PLC0415 - torch costs seconds and 0.9 GB

        return TorchRuntime(prepared, device)
    return OpenVinoRuntime(prepared)
