"""A CUDA device in software: what is asked of it is computed on the CPU, at once and in order.

A captured graph is what torch dispatched meanwhile, with the very tensors, as a device would have it:
replayed, it reads and writes them again, and no Python of the network runs.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from models import cuda

Operation = tuple[Any, tuple[Any, ...], dict[str, Any], Any]


class Event:
    def __init__(self, enable_timing: bool = False, blocking: bool = False) -> None:
        self.recorded = False

    def synchronize(self) -> None:
        assert self.recorded


class Stream:
    def __init__(self, device: object = None) -> None:
        pass

    def record_event(self, event: Event) -> Event:
        event.recorded = True
        return event

    def wait_event(self, event: Event) -> None:
        assert event.recorded


class Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, result))
        return result


class CUDAGraph:
    def __init__(self) -> None:
        self.operations: list[Operation] = []

    def replay(self) -> None:
        for func, args, kwargs, result in self.operations:
            for old, new in zip(tree_flatten(result)[0], tree_flatten(func(*args, **kwargs))[0], strict=True):
                if isinstance(old, torch.Tensor):
                    old.copy_(new)


@contextlib.contextmanager
def graph(
    cuda_graph: CUDAGraph, pool: object = None, stream: object = None, capture_error_mode: str = "global"
) -> Iterator[None]:
    with Recording() as recording:
        yield
    cuda_graph.operations = recording.operations


def stream(stream: Stream) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put it in the place of torch.cuda, for `models.cuda` on the device `cpu`."""
    for name, stand_in in {
        "Event": Event, "Stream": Stream, "CUDAGraph": CUDAGraph, "graph": graph, "stream": stream,
        "graph_pool_handle": lambda: (0, 0), "set_device": lambda device: None,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(cuda, "page_locked", lambda shape, dtype: torch.empty(tuple(shape), dtype=dtype))
