"""The service in one process: real app and store, the real batch on a tiny backbone, a trainer on demand."""

import threading
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio.to_thread
from starlette.testclient import TestClient

from models.arrays import FloatArray, UInt8Array
from models.errors import PolyheadError
from models.head_session import HeadSession
from models.identity import BackboneIdentity
from models.prepare import PreparedBackbone
from models.prepared import Pass
from models.runtime import Runtime
from service.app import create_app
from service.inference.batching import Answer, HeadRef, Job, joined, split
from service.inference.heads import HeadCache
from service.inference.lit_api import open_group
from service.inference.running import Trunk, run_batch
from service.settings import Settings
from service.store import Store
from service.store.records import Run
from service.trainer import scratch
from service.trainer.jobs import BackboneJob
from service.trainer.workbench import Workbench
from service.trainer.worker import work_on
from service.web.parts import Parts


class LocalEngine:
    """The worker's batch function, in a thread of this process."""

    def __init__(
        self, runtime: Runtime, identity: BackboneIdentity, store: Store, settings: Settings
    ) -> None:
        self._identity = identity
        self._runtime = runtime
        self.asked: list[tuple[str, ...]] = []  # outputs of each pass of the backbone
        self._heads = HeadCache(
            store.blobs.get,
            lambda data, output: HeadSession(data, identity.digest, output),
            open_group,
            capacity=settings.head_cache_entries,
            most_bytes=settings.head_cache_bytes,
        )
        self.fails_with: Exception | None = None  # what every submission meets
        self.is_full = False
        self.stopping = False
        self.is_alive = True
        self.images = 0  # that went through the backbone

    @property
    def identity(self) -> BackboneIdentity:
        return self._identity

    @property
    def full(self) -> bool:
        return self.is_full

    @property
    def draining(self) -> bool:
        return self.stopping

    async def alive(self) -> bool:
        return self.is_alive

    async def submit(
        self,
        pixels: UInt8Array,
        heads: Sequence[HeadRef] = (),
        *,
        embeddings: bool = False,
        known: FloatArray | None = None,
    ) -> Answer:
        if self.fails_with is not None:
            raise self.fails_with
        jobs = split(
            pixels, tuple(heads), embeddings=embeddings, size=8, queued_at=0, deadline=1e12, known=known
        )
        return joined(await anyio.to_thread.run_sync(self._answers, jobs))

    def _answers(self, jobs: Sequence[Job]) -> list[Answer | PolyheadError]:
        """As the worker's loop: a job whose head is late is asked again."""
        outcomes = run_batch(jobs, Trunk(self._begin, self._identity.outputs), self._heads)
        return [self._answers([each])[0] if isinstance(each, Job) else each for each in outcomes]

    def _begin(self, pixels: UInt8Array, outputs: tuple[str, ...]) -> Pass:
        self.asked.append(outputs)
        self.images += len(pixels)
        return self._runtime.begin(pixels, outputs)


class Here:
    """Does the trainer's heavy work in the calling thread rather than in a child process."""

    def call(self, work: Any, job: Any, *, report: Any, check: Any) -> Any:
        check()
        return work(job, report)

    def restart(self) -> None:
        scratch.drop()


@dataclass
class Local:
    """One running service, seen from outside (`client`) and from inside."""

    settings: Settings
    store: Store
    engine: LocalEngine
    prepared: PreparedBackbone
    client: TestClient = field(init=False)

    def __post_init__(self) -> None:
        @asynccontextmanager
        async def open_parts(_app):
            parts = Parts.assemble(
                settings=self.settings,
                store=self.store,
                engine=self.engine,
                identity=self.prepared.identity,
                backbone_file=self.prepared.onnx_path,
                runtime="openvino",
            )
            yield parts
            parts.close()

        self.client = TestClient(create_app(self.settings, open_parts), raise_server_exceptions=False)

    @property
    def bench(self) -> Workbench:
        backbone = BackboneJob(config=self.settings.backbone_config, cache_dir=self.settings.cache_dir)
        return Workbench(
            settings=self.settings,
            store=self.store,
            child=Here(),
            backbone=backbone,
            identity=self.prepared.identity,
        )

    def work(self) -> Run:
        """Claim the next run, carry it out, and return it as it ended."""
        run = self.store.runs.claim(60, 3)
        assert run is not None
        work_on(run, self.bench, threading.Event())
        return self.store.runs.get(run.tenant, run.id)
