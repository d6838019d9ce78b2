"""Where a backbone can run: the CPU, or CUDA devices, named as torch names them."""

import ctypes
from collections.abc import Sequence

from models.errors import BackboneError

CPU = "cpu"


def chosen_devices(runtime: str, numbers: Sequence[int] | None = None) -> tuple[str, ...]:
    """Those that a runtime is to run on.

    Args:   runtime: as of BackboneConfig.
            numbers: of CUDA devices; None: all there are.
    Raises: BackboneError: one isn't there, or the runtime can't run on it.
    """
    there = 0 if runtime == "openvino" else cuda_devices()
    if numbers is None:
        return tuple(_cuda(number) for number in range(there)) or (CPU,)
    if runtime == "openvino":
        raise BackboneError("CUDA devices were named, and the runtime is openvino, which runs on the CPU")
    missing = [str(number) for number in numbers if number >= there]
    if missing:
        raise BackboneError(f"no CUDA device {', '.join(missing)}: the driver shows {there}")
    return tuple(_cuda(number) for number in numbers)


def cuda_devices() -> int:
    """How many CUDA devices the driver sees, asked without loading torch."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def _cuda(number: int) -> str:
    return f"cuda:{number}"
