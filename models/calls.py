"""When each submodule of a network runs: what a split and a grouping by order need to know. Imports torch."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from models.backbone import Backbone
from models.errors import BackboneError


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """Ticks of a counter that moves on whenever a submodule starts or ends; by dotted name."""

    starts: dict[str, int] = field(default_factory=dict)  # of the first call
    ends: dict[str, int] = field(default_factory=dict)  # of the last one

    def start_of(self, parameter: str) -> int:
        """When a parameter may first be used: at the start of its module, or of the nearest one around it.

        0 for one that belongs to the network itself: a class token, a position embedding.
        """
        owner = parameter
        while "." in owner:
            owner = owner.rpartition(".")[0]
            if owner in self.starts:
                return self.starts[owner]
        return 0


def blank_images(backbone: Backbone) -> Tensor:
    """(2, channels, input_size, input_size) float32, not constant: zeros hide what a layer computes."""
    shape = (2, backbone.channels, backbone.input_size, backbone.input_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def record_calls(backbone: Backbone) -> Calls:
    """Run the network once, on two images of noise.

    Raises: BackboneError: it can't be run on its declared input.
    """
    calls = Calls()
    clock = 0

    def tick() -> int:
        nonlocal clock
        clock += 1
        return clock

    def watch(name: str, module: nn.Module) -> list[Any]:
        return [
            module.register_forward_pre_hook(lambda *_: calls.starts.setdefault(name, tick()) and None),
            module.register_forward_hook(lambda *_: calls.ends.__setitem__(name, tick())),
        ]

    modules = [(name, module) for name, module in backbone.module.named_modules() if name]
    hooks = [hook for name, module in modules for hook in watch(name, module)]
    was_training = backbone.module.training
    backbone.module.eval()
    try:
        with torch.no_grad():
            backbone.run(blank_images(backbone))
    except Exception as error:  # a network may fail in any way on an input that it wasn't made for
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BackboneError(f"backbone {backbone.name}: it can't be run: {reason}") from error
    finally:
        for hook in hooks:
            hook.remove()
        backbone.module.train(was_training)
    return calls
