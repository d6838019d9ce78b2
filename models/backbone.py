"""A name → one frozen network: its stages, its digest, its preprocessing. Imports torch.

Not here: how the network becomes a file (`graph`), where that is kept (`prepare`), what runs it (`runtime`).
"""

import difflib
import hashlib
import importlib
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import timm
import torch
from timm.data import resolve_data_config
from torch import Tensor, nn

from models.classifier import find_classifier, take_classifier
from models.domain import Classifier
from models.errors import BackboneError
from models.identity import BackboneConfig, CropMode, Interpolation
from models.weights import (
    check_hub,
    find_weights,
    is_factory,
    misfit,
    read_tensors,
    renamed_in_order,
    shown_name,
    timm_name,
)

PRE_LOGITS = "pre-logits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """A network and how to feed it; what a factory of your own (`package.module:factory`) returns.

    The module maps (N, channels, input_size, input_size) float32, normalised with `mean` and `std`, to (N, D)
    float32 embeddings. It is put into eval mode, and nothing here changes its weights.
    """

    module: nn.Module
    input_size: int  # pixels; inputs are square
    channels: Literal[1, 3]  # 3: RGB, 1: grey
    mean: tuple[float, ...]  # one a channel, of values scaled to 0-1
    std: tuple[float, ...]
    interpolation: Interpolation
    stages: tuple[str, ...]  # dotted names of submodules whose outputs are served too, earliest first
    features: str  # names what the embedding is, and is part of the digest: change it when module's code
    # starts to compute something else with the same weights. "pre-logits" is special: the embedding is then
    # `module.forward_head(module.forward_features(x), pre_logits=True)`, as timm's networks have it; for
    # any other name it is `module(x)`.
    crop_pct: float = 1.0  # 0-1: the central share of the resized shorter side that is kept
    crop_mode: CropMode = "center"
    name: str = ""  # shown to users; default: the factory's dotted name
    licence: str = "unknown"  # SPDX id of the weights
    classifier: Classifier | None = None  # from embeddings to the pretraining classes, if known

    def run(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Embed, and tap the stages on the way.

        Args:    images: (N, channels, input_size, input_size) float32, normalised.
        Returns: (N, D), and by name the output of each stage that took part.
        """
        tapped: dict[str, Tensor] = {}

        def tap(name: str) -> Any:
            module = self.module.get_submodule(name)
            return module.register_forward_hook(lambda _, __, output: tapped.__setitem__(name, output))

        taps = [tap(name) for name in self.stages]
        network: Any = self.module
        try:
            if self.features == PRE_LOGITS:
                embedding = network.forward_head(network.forward_features(images), pre_logits=True)
            else:
                embedding = network(images)
        finally:
            for each in taps:
                each.remove()
        return embedding, tapped


def build_backbone(config: BackboneConfig) -> Backbone:
    """Build the network and load its weights.

    Raises: BackboneError: one line: an unknown name, weights that are missing, damaged or another
            network's, or a factory that returns no usable Backbone.
    """
    backbone = _from_factory(config) if is_factory(config.name) else _from_timm(config)
    backbone.module.eval().requires_grad_(False)
    return backbone


def weights_digest(module: nn.Module) -> str:
    """sha256 (64 hex digits) of every tensor: name, dtype, shape, bytes; in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _from_timm(config: BackboneConfig) -> Backbone:
    name = shown_name(config.name)
    network, classifier, licence = _timm_network(config)
    said = resolve_data_config(pretrained_cfg=network.pretrained_cfg)
    _, height, width = said["input_size"]
    if height != width and config.input_size is None:
        raise BackboneError(
            f"backbone {name}: its input of {width}x{height} pixels isn't square; give a size"
        )
    if said["interpolation"] not in get_args(Interpolation) or said["crop_mode"] not in get_args(CropMode):
        raise BackboneError(
            f"backbone {name}: preprocessing {said['interpolation']}, {said['crop_mode']} isn't supported"
        )
    _check_patches(network, config.input_size or width, name)
    backbone = Backbone(
        module=network,
        input_size=config.input_size or width,
        channels=3,
        mean=tuple(map(float, said["mean"])),
        std=tuple(map(float, said["std"])),
        interpolation=said["interpolation"],
        stages=_coarse_stages(network),
        features=PRE_LOGITS,
        crop_pct=config.crop_pct or said["crop_pct"],
        crop_mode=said["crop_mode"],
        name=name,
        licence=licence,
        classifier=classifier,
    )
    return replace(backbone, stages=_served_stages(backbone))


def _check_patches(network: Any, size: int, name: str) -> None:
    """timm would leave out what is beyond the last whole patch, and say nothing."""
    embed = getattr(network, "patch_embed", None)
    if getattr(embed, "dynamic_img_pad", False):
        return
    said = getattr(embed, "patch_size", None)
    patch = max(said) if isinstance(said, tuple) else said
    if isinstance(patch, int) and size % patch:
        raise BackboneError(
            f"backbone {name}: an input size of {size} isn't a multiple of its patches, {patch} pixels"
        )


def _timm_network(config: BackboneConfig) -> tuple[Any, Classifier | None, str]:
    """The network without its classifier, with its weights; the classifier; their licence."""
    name = shown_name(config.name)
    source = find_weights(config.name, config.weights)
    if not timm.is_model(timm_name(config.name)):
        raise BackboneError(f"backbone {name}: timm has no network of that name{_suggestion(name)}")
    if source.kind == "hub":
        check_hub(name, getattr(timm.get_pretrained_cfg(timm_name(config.name)), "hf_hub_id", None))
    network = _created(config, from_hub=source.kind == "hub")
    with_classifier = network.state_dict()
    layer = find_classifier(network)
    classifier = take_classifier(with_classifier, layer) if source.kind == "hub" else None
    network.reset_classifier(0)  # its size is then that of the pooled features; the head is ours to train
    if source.path is not None:
        tensors = read_tensors(source.path, name)
        if source.kind == "package":
            tensors = renamed_in_order(tensors, with_classifier)
        needed = network.state_dict()
        dropped = with_classifier.keys() - needed.keys()
        features = {key: tensor for key, tensor in tensors.items() if key not in dropped}
        _load(network, features, name, source.path)
        classifier = take_classifier(tensors, layer)
    declared = network.pretrained_cfg.get("license") or "unknown"
    return (
        network,
        classifier,
        "unknown" if source.kind == "file" else "Apache-2.0" if source.kind == "package" else declared,
    )


def _created(config: BackboneConfig, *, from_hub: bool) -> Any:
    """timm's network with its classifier, so that the hub's weights are loaded strictly."""
    name, full_name = shown_name(config.name), timm_name(config.name)
    try:
        fixed = timm.get_pretrained_cfg(full_name)
        sized = (
            {"img_size": config.input_size} if config.input_size and fixed and fixed.fixed_input_size else {}
        )
        return timm.create_model(full_name, pretrained=from_hub, **sized)
    except Exception as error:  # timm, its networks and the hub's client have no common error
        reason = _first_line(error)
        if not from_hub or reason.startswith("Invalid pretrained tag"):
            raise BackboneError(f"backbone {name}: it can't be built: {reason}{_suggestion(name)}") from error
        raise BackboneError(
            f"backbone {name}: its weights can't be fetched from the hub ({reason}); give a local file"
        ) from error


def _load(network: nn.Module, tensors: dict[str, Tensor], name: str, path: Path) -> None:
    """Load strictly, trying timm's own conversion (other layouts, other sizes) where the names don't fit."""
    needed = network.state_dict()
    problem = misfit(tensors, needed)
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if problem and convert:
        try:
            converted = convert(dict(tensors), network)
        except Exception:  # noqa: BLE001 - on tensors of another network it fails in any way; `problem` says why
            converted = tensors
        if misfit(converted, needed) is None:
            tensors, problem = converted, None
    if problem:
        raise BackboneError(f"backbone {name}: {path} holds another network's weights: {problem}")
    network.load_state_dict(tensors, strict=True)


def _coarse_stages(network: Any) -> tuple[str, ...]:
    """The blocks as timm groups them coarsely (layer1 … layer4 of a ResNet), else its feature stages."""
    said = network.group_matcher(coarse=True)
    patterns = said.get("blocks", ()) if isinstance(said, dict) else ()
    patterns = [patterns] if isinstance(patterns, str) else [pattern for pattern, _ in patterns]
    numbered = [pattern for pattern in patterns if r"(\d+)" in pattern]
    named = tuple(
        name
        for name, _ in network.named_modules()
        if any(re.fullmatch(pattern, name) for pattern in numbered)
    )
    known = dict(network.named_modules())
    said_stages = (stage["module"] for stage in getattr(network, "feature_info", None) or ())
    return named or tuple(name for name in said_stages if name in known)


def _served_stages(backbone: Backbone) -> tuple[str, ...]:
    """Those that give one tensor: some networks pass lists between their stages."""
    images = torch.zeros(2, backbone.channels, backbone.input_size, backbone.input_size)
    backbone.module.eval()
    try:
        with torch.inference_mode():
            _, tapped = backbone.run(images)
    except Exception:  # noqa: BLE001 - networks fail in any way on a wrong size; `graph.identify` reports it
        return backbone.stages
    return tuple(name for name in backbone.stages if isinstance(tapped.get(name), Tensor))


def _from_factory(config: BackboneConfig) -> Backbone:
    module_name, _, factory_name = config.name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may fail in any way while it is imported
        raise BackboneError(
            f"backbone {config.name}: {module_name} can't be imported: {_first_line(error)}"
        ) from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        near = difflib.get_close_matches(factory_name, vars(module), n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise BackboneError(f"backbone {config.name}: {module_name} has no function {factory_name!r}{meant}")
    try:
        backbone = factory()
    except Exception as error:  # a user's function, as above
        raise BackboneError(f"backbone {config.name}: its factory failed: {_first_line(error)}") from error
    if not isinstance(backbone, Backbone):
        kind = type(backbone).__name__
        raise BackboneError(
            f"backbone {config.name}: its factory returned a {kind}, not a models.backbone.Backbone"
        )
    backbone = replace(
        backbone,
        name=backbone.name or config.name,
        input_size=config.input_size or backbone.input_size,
        crop_pct=config.crop_pct or backbone.crop_pct,
        mean=tuple(map(float, backbone.mean)),
        std=tuple(map(float, backbone.std)),
        stages=tuple(backbone.stages),
    )
    _check_declared(backbone)
    if config.weights is not None:
        path = find_weights(config.name, config.weights).path
        assert path is not None
        _load(backbone.module, read_tensors(path, backbone.name), backbone.name, path)
    return backbone


def _check_declared(backbone: Backbone) -> None:
    known = {name for name, _ in backbone.module.named_modules() if name}
    lost = [stage for stage in backbone.stages if stage not in known]
    problems = {
        "channels must be 1 (grey) or 3 (RGB)": backbone.channels not in (1, 3),
        "input_size must be a number of pixels": not 1 <= backbone.input_size <= 4096,
        "mean and std need one number a channel, std above 0": not (
            len(backbone.mean) == len(backbone.std) == backbone.channels and min(backbone.std) > 0
        ),
        f"interpolation must be one of {', '.join(get_args(Interpolation))}": (
            backbone.interpolation not in get_args(Interpolation)
        ),
        f"crop_mode must be one of {', '.join(get_args(CropMode))}": backbone.crop_mode
        not in get_args(CropMode),
        "crop_pct must be above 0 and at most 1": not 0 < backbone.crop_pct <= 1,
        "features must name what the embedding is": not backbone.features,
        f"it has no submodule {', '.join(lost)}, which stages names": bool(lost),
        "stages names a submodule twice": len(set(backbone.stages)) < len(backbone.stages),
        "a stage can't be called pixels, embedding or pooled": bool(
            {"pixels", "embedding", "pooled"} & set(backbone.stages)
        ),
    }
    for problem, found in problems.items():
        if found:
            raise BackboneError(f"backbone {backbone.name}: {problem}")


def _suggestion(name: str) -> str:
    tagged = timm.list_pretrained() if "." in name else timm.list_models()
    near = difflib.get_close_matches(name, ["efficientnet_lite0", *tagged], n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
