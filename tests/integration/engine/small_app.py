"""A few routes on the real engine, without a task or a user in sight."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator

import numpy as np
from fastapi import FastAPI, Request, Response

from models.errors import PolyheadError
from service.engine import HeadRef
from service.errors import problem_of
from service.metrics import CONTENT_TYPE, metrics_text
from service.settings import Settings
from service.web.parts import OpenParts, Parts


def make_app(_settings: Settings, open_parts: OpenParts) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_parts(app) as parts:
            app.state.parts = parts
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/submit")
    async def submit(request: Request) -> Response:
        """Body: uint8 pixels of some images of ?size=. Answers embeddings, unless ?embeddings=0, and outputs.

        ?heads=[[digest, key, output]]; the output is `embedding` unless said.
        """
        parts: Parts = request.app.state.parts
        pixels = np.frombuffer(await request.body(), np.uint8)
        query = request.query_params
        size, embeddings = int(query.get("size", "32")), query.get("embeddings") != "0"
        heads = [HeadRef(*ref) for ref in json.loads(query.get("heads", "[]"))]
        try:
            answer = await parts.engine.submit(
                pixels.reshape(-1, size, size, 3), heads, embeddings=embeddings
            )
        except PolyheadError as error:
            return Response(str(error), problem_of(error).status)
        outputs = [
            str(output) if isinstance(output, PolyheadError) else output.tolist() for output in answer.outputs
        ]
        vectors = None if answer.embeddings is None else answer.embeddings.tolist()
        return Response(json.dumps({"embeddings": vectors, "outputs": outputs}))

    @app.post("/give-up")
    async def give_up(request: Request) -> dict[str, int]:
        """Submit, go away before the answer, and tell what the engine still holds a moment later."""
        engine = request.app.state.parts.engine
        task = asyncio.create_task(engine.submit(np.zeros((1, 32, 32, 3), np.uint8)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(1)
        return {"held": len(engine._waiting), "shelved": sum(engine._share._taken)}

    @app.get("/alive")
    async def alive(request: Request) -> dict[str, object]:
        return {"alive": await request.app.state.parts.engine.alive(), "pid": os.getpid()}

    @app.get("/slow")
    async def slow(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "done"

    @app.get("/modules")
    async def modules() -> list[str]:
        return sorted(sys.modules)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(metrics_text(), media_type=CONTENT_TYPE)

    return app
