"""The trainer: claims runs one after another, carries each out under its lease, and says how it ended."""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import structlog

from models.errors import PolyheadError
from service.errors import LostLease, NotReady, StoreUnavailable, UnknownRun, UnknownTask
from service.metrics import TRAINER_RUNS
from service.schemas.problems import describe
from service.settings import Settings
from service.store import Quotas, Store, check_schema, open_store
from service.store.notices import RUNS, Listener
from service.store.records import TERMINAL_STATES, Run, RunKind
from service.telemetry import AUDIT
from service.trainer.child import Child, ChildCrashed
from service.trainer.importer import import_archive
from service.trainer.jobs import IDENTIFY, WARM, BackboneJob
from service.trainer.lease import Cancelled, Lease, Stopping
from service.trainer.sweeper import Sweeper
from service.trainer.training import train
from service.trainer.workbench import Workbench

MAX_THREADS = 2  # of the trainer's own backbone: it gives way to the server's
STORE_PAUSE_S = 2.0  # after the store was out of reach

log = structlog.get_logger()
audit = structlog.stdlib.get_logger(AUDIT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run is to be ended."""

    state: Literal["succeeded", "failed", "cancelled"]
    result: dict[str, Any] | None = None
    error: PolyheadError | None = None


def run_trainer(
    settings: Settings, stop: threading.Event, ready: Callable[[], object] = lambda: None
) -> None:
    """Work until `stop`: then the run in work goes back to the queue, and this returns in a second or two.

    Args:   ready: called once, before the first claim.
    Raises: BackboneError: the backbone that the settings name can't be prepared. NotReady: the schema is
            another version's.
    """
    store = open_store(settings.resolved_database_url, settings.resolved_blob_url, Quotas.of(settings))
    with suppress(StoreUnavailable):  # it may come back, and a claim waits for it
        check_schema(store.database)
    backbone = backbone_of(settings)
    child = Child(WARM, backbone)
    queue = Listener(store.database, RUNS)
    try:
        bench = _open_bench(settings, store, child, backbone, stop)
        log.info("trainer_ready", backbone=bench.identity.name, digest=bench.identity.digest)
        count_from_zero()
        ready()
        with Sweeper(store, settings):
            while not stop.is_set():
                run = _claim(bench, stop)
                if run is None:
                    queue.wait(settings.poll_s, stop)
                else:
                    work_on(run, bench, stop)
    except Stopping:
        pass
    finally:
        child.close()
        queue.close()
        store.close()


def backbone_of(settings: Settings) -> BackboneJob:
    threads = min(settings.inference_threads or MAX_THREADS, MAX_THREADS)
    return BackboneJob(
        config=replace(settings.backbone_config, threads=threads), cache_dir=settings.cache_dir
    )


def count_from_zero() -> None:
    """Show the counters before anything is counted: a rate can't see one that begins with a 1."""
    for kind in get_args(RunKind):
        for state in TERMINAL_STATES:
            TRAINER_RUNS.labels(kind, state)


def _open_bench(
    settings: Settings, store: Store, child: Child, backbone: BackboneJob, stop: threading.Event
) -> Workbench:
    """Raises: BackboneError; Stopping."""

    def check() -> None:
        if stop.is_set():
            raise Stopping

    identity = child.call(IDENTIFY, backbone, report=lambda _: None, check=check)
    return Workbench(settings=settings, store=store, child=child, backbone=backbone, identity=identity)


def _claim(bench: Workbench, stop: threading.Event) -> Run | None:
    try:
        return bench.store.runs.claim(
            bench.settings.lease_s,
            bench.settings.max_attempts,
            backbone_digest=bench.identity.digest,
            ended=bench.store.discard_archive,
        )
    except NotReady as error:
        log.warning("no_claim", reason=str(error))
        stop.wait(STORE_PAUSE_S)
        return None


def work_on(run: Run, bench: Workbench, stop: threading.Event) -> None:
    """Carry out a claimed run and end it, whatever happens on the way."""
    with structlog.contextvars.bound_contextvars(run=run.id, task=run.task_id, attempt=run.attempt):
        log.info("run_begins", kind=run.kind)
        try:
            outcome = _carry_out(run, bench, stop)
            if outcome is not None:
                _end(run, bench, outcome)
        except (LostLease, UnknownTask, NotReady) as error:
            # A store that can't be written to can't be told; another attempt follows the end of the lease.
            log.info("run_dropped", reason=str(error))
        else:
            _audit(run, bench.store)


def _carry_out(run: Run, bench: Workbench, stop: threading.Event) -> Outcome | None:
    """Returns: how to end the run; None where that is done.

    Raises: LostLease, UnknownTask, StoreUnavailable: it is not this trainer's to end.
    """
    try:
        with Lease(bench.store, run, lease_s=bench.settings.lease_s, stop=stop) as lease:
            if run.kind == "import":
                return Outcome(state="succeeded", result=import_archive(run, bench, lease))
            train(run, bench, lease)
            TRAINER_RUNS.labels(run.kind, "succeeded").inc()
            return None
    except Stopping:
        log.info("run_released")
        if bench.store.runs.release(run.id, run.attempt).state in TERMINAL_STATES:
            bench.store.discard_archive(run)
        return None
    except (LostLease, UnknownTask, StoreUnavailable):
        raise
    except Exception as error:  # noqa: BLE001 - a run that nobody ends would be tried again
        return _outcome_of(error)


def _outcome_of(error: Exception) -> Outcome:
    if isinstance(error, Cancelled):
        return Outcome(state="cancelled", result=error.result)
    if isinstance(error, PolyheadError):
        log.info("run_failed", reason=str(error))
        return Outcome(state="failed", error=error)
    log.error("run_failed", trace=str(error) if isinstance(error, ChildCrashed) else None, exc_info=error)
    unforeseen = PolyheadError("the run failed inside the service; the trainer's log says why")
    return Outcome(state="failed", error=unforeseen)


def _end(run: Run, bench: Workbench, outcome: Outcome) -> None:
    error = describe(outcome.error).to_json() if outcome.error else None
    bench.store.runs.finish(run.id, run.attempt, outcome.state, result=outcome.result, error=error)
    TRAINER_RUNS.labels(run.kind, outcome.state).inc()
    bench.store.discard_archive(run)


def _audit(run: Run, store: Store) -> None:
    """What a run has changed, in the words of the request that asked for it."""
    try:
        ended = store.runs.get(run.tenant, run.id)
    except (UnknownRun, NotReady):
        return
    if ended.state in TERMINAL_STATES:
        audit.info(
            "end_run", tenant=ended.tenant, task_name=ended.task_name, kind=ended.kind, state=ended.state,
            version=ended.version, published=ended.published, result=ended.result,
        )  # fmt: skip
