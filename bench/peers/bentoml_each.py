"""BentoML: a service with adaptive batching for each task, and one in front that names them.

As its documentation has it: `@bentoml.api(batchable=True)` for adaptive batching, `bentoml.depends` for
composition; each service has a process with its own network.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import bentoml
import torch
from PIL.Image import Image

from bench.network import Network
from bench.peers.order import BATCH, Order

PATIENCE_S = 120
# A task's service closes an idle connection after 5 s, and the one in front takes it for open (BentoML's
# issue 4971): without further tries, which its users write, up to a tenth of the answers would be 500.
TRIES = 5


def service_of(number: int, head: Path) -> Any:
    """One task's service."""

    @bentoml.service(name=f"task-{number}", workers=1, traffic={"timeout": PATIENCE_S})
    class Task:
        def __init__(self) -> None:
            self.network = Network(ORDER.backbone, head)

        @bentoml.api(batchable=True, max_batch_size=BATCH, max_latency_ms=1000 * PATIENCE_S)  # type: ignore[untyped-decorator]
        def predict(self, photos: list[Image]) -> list[dict[str, Any]]:
            pixels = torch.stack([self.network.transformed(photo) for photo in photos])
            return [self.network.best(each) for each in self.network.predict(pixels)]

    return Task


async def answer_of(ask: Callable[..., Awaitable[list[dict[str, Any]]]], photo: Image) -> dict[str, Any]:
    """What a task's service says. Raises: ClientConnectionError: even at the last try."""
    for left in reversed(range(TRIES)):
        try:
            (answer,) = await ask([photo])
            break
        except aiohttp.ClientConnectionError:
            if left == 0:
                raise
    return answer


def in_front(tasks: list[Any]) -> Any:
    """`/predict/{number}` for each."""

    def route_of(number: int) -> Any:
        async def predict(self: Any, file: Image) -> dict[str, Any]:
            return await answer_of(getattr(self, f"task_{number}").to_async.predict, file)

        predict.__name__ = f"predict_{number}"
        return bentoml.api(route=f"/predict/{number}")(predict)

    members: dict[str, Any] = {f"task_{number}": bentoml.depends(task) for number, task in enumerate(tasks)}
    members |= {f"predict_{number}": route_of(number) for number in range(len(tasks))}
    return bentoml.service(name="tasks", workers=1, traffic={"timeout": PATIENCE_S})(
        type("Tasks", (), members)
    )


ORDER = Order.of_environment()
Tasks = in_front([service_of(number, head) for number, head in enumerate(ORDER.heads)])
