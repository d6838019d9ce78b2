"""Ray Serve: one deployment that multiplexes networks, a task being a model id.

As its documentation has it: `@serve.multiplexed` around what loads a model, `@serve.batch` around what runs
it.
"""

import argparse
import asyncio
import os
import signal
from io import BytesIO
from pathlib import Path
from typing import Any

import ray
import torch
from ray import serve
from starlette.requests import Request

from bench.network import Network
from bench.peers.order import BATCH, Order


@serve.deployment(max_ongoing_requests=100, ray_actor_options={"num_cpus": 1})
class Tasks:
    def __init__(self, order: Order) -> None:
        self.order = order

    @serve.multiplexed(max_num_models_per_replica=10_000)  # type: ignore[untyped-decorator]  # memory is the bound
    async def network(self, model_id: str) -> Network:
        return Network(self.order.backbone, self.order.heads[int(model_id)])

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0.01)  # type: ignore[untyped-decorator]
    async def predict(self, asked: list[tuple[str, Any]]) -> list[dict[str, Any]]:
        """Photos of any tasks, each task's together: (task, (C, H, W)) -> label and score."""
        answers: list[dict[str, Any]] = [{} for _ in asked]
        for model_id in dict.fromkeys(task for task, _ in asked):
            network = await self.network(model_id)
            its = [place for place, (task, _) in enumerate(asked) if task == model_id]
            found = network.predict(torch.stack([asked[place][1] for place in its]))
            for place, each in zip(its, found, strict=True):
                answers[place] = network.best(each)
        return answers

    async def __call__(self, request: Request) -> dict[str, Any]:
        if request.method == "GET":  # Serve's own health route answers before there is a replica
            return {"ready": True}
        model_id = request.url.path.rpartition("/")[2]
        network = await self.network(model_id)
        form = await request.form()
        file: Any = form["file"]
        pixels = await asyncio.to_thread(network.pixels, BytesIO(await file.read()))
        return await self.predict((model_id, pixels))  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="of what Ray writes; a short path")
    said = parser.parse_args()
    ray.init(
        num_cpus=os.cpu_count(),
        include_dashboard=False,
        object_store_memory=256 * 2**20,
        _node_ip_address="127.0.0.1",
        _temp_dir=str(said.folder),
    )
    serve.start(http_options={"host": "127.0.0.1", "port": said.port})
    serve.run(
        Tasks.bind(  # type: ignore[attr-defined]
            Order.of_environment()
        ),
        route_prefix="/predict",
    )
    try:
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
