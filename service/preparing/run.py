"""The run of `polyhead backbone prepare`: what is served, a successor of each, and what became of them."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from models.errors import PolyheadError
from models.identity import BackboneIdentity
from service.errors import UnknownTask, UnknownVersion
from service.preparing.outcomes import Outcome
from service.preparing.progress import Say
from service.preparing.report import described_outcome
from service.preparing.successor import Successor
from service.preparing.training import LOOK_S, Busy, Trainer
from service.processes.preflight import check_folders
from service.settings import Settings
from service.store import Store, check_schema, open_store
from service.store.database import sqlite_path
from service.store.records import Served
from service.trainer.child import Child
from service.trainer.jobs import IDENTIFY, PREPARE, WARM
from service.trainer.lease import Stopping
from service.trainer.workbench import Workbench
from service.trainer.worker import backbone_of


class PreparationFailed(PolyheadError):
    """One line that says why nothing can be prepared."""


class SameBackbone(PreparationFailed):
    def __init__(self, identity: BackboneIdentity) -> None:
        super().__init__(
            f"{identity.name} with these settings is the backbone that is served already "
            f"({identity.digest[:12]}): name another, or another --weights, --input-size, --crop-pct or "
            "--precision"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareOptions:
    tolerance: float  # as in `is_within`
    tasks: tuple[str, ...] = ()  # names; (): all
    tenant: str | None = None  # None: all
    dry_run: bool = False


@dataclass(slots=True, kw_only=True)
class Preparation:
    """How far it is; whole once `interrupted` is False and it was returned."""

    old: BackboneIdentity
    new: BackboneIdentity
    settings: Settings  # of servers of the new backbone
    options: PrepareOptions
    outcomes: list[Outcome]
    interrupted: bool = False

    @property
    def well(self) -> bool:
        return not self.interrupted and not any(outcome.amiss for outcome in self.outcomes)


def prepare(
    settings: Settings, new: Settings, options: PrepareOptions, stop: threading.Event, say: Say
) -> Preparation:
    """Train and publish for servers of another backbone what those of the settings' answer from.

    Args:   settings: of the servers that run; new: of those that are to follow, which differ by the backbone.
            stop: set to end early; what is done by then stays, and another run goes on from there.
            say: is told how far it is.
    Raises: PreparationFailed, PreflightFailed, BackboneError, NotReady, StoreUnavailable; Stopping: it was to
            end before there was anything to tell.
    """

    def check() -> None:
        if stop.is_set():
            raise Stopping

    with _opened(settings) as store:
        say(f"looking at backbone {settings.backbone}, and at what is published on it")
        old = _identity_of(settings, check)
        _check_tasks(store, old, options)
        say(f"preparing backbone {new.backbone}: the first time takes a minute")
        with _bench(new, store, check) as bench:
            if old.digest == bench.identity.digest:
                raise SameBackbone(old)
            preparation = Preparation(old=old, new=bench.identity, settings=new, options=options, outcomes=[])
            trainer = Trainer(bench=bench, stop=stop)
            try:
                if options.dry_run:
                    preparation.outcomes = _plans(trainer, old, options)
                else:
                    _work(trainer, preparation, say)
            except Stopping:
                preparation.interrupted = True
            return preparation


@contextmanager
def _opened(settings: Settings) -> Iterator[Store]:
    """The servers' store, as it is: this command makes none, and migrates none beside them."""
    url = settings.resolved_database_url
    if url.startswith("sqlite") and not sqlite_path(url).is_file():
        raise PreparationFailed(
            f"there is no database {sqlite_path(url)}: POLYHEAD_DATA_DIR, or POLYHEAD_DATABASE_URL and "
            "POLYHEAD_BLOB_URL, have to be the servers' own"
        )
    check_folders(settings)
    store = open_store(url, settings.resolved_blob_url)  # without quotas: they are for users
    try:
        check_schema(store.database)
        store.ping()
        yield store
    finally:
        store.close()


def _identity_of(settings: Settings, check: Callable[[], None]) -> BackboneIdentity:
    """Raises: BackboneError, Stopping."""
    job = backbone_of(settings)
    child = Child(PREPARE, job)  # of its own, which doesn't stand back for all others as a trainer's does
    try:
        return child.call(IDENTIFY, job, report=lambda _: None, check=check)
    finally:
        child.close()


@contextmanager
def _bench(settings: Settings, store: Store, check: Callable[[], None]) -> Iterator[Workbench]:
    """What trains the new backbone. Raises: BackboneError, Stopping."""
    job = backbone_of(settings)
    child = Child(WARM, job)
    try:
        identity = child.call(IDENTIFY, job, report=lambda _: None, check=check)
        yield Workbench(settings=settings, store=store, child=child, backbone=job, identity=identity)
    finally:
        child.close()


def _check_tasks(store: Store, old: BackboneIdentity, options: PrepareOptions) -> None:
    if not store.aliases.served(old.digest):
        others = ", ".join(f"{digest[:12]} of {count}" for digest, count in store.aliases.backbones().items())
        raise PreparationFailed(
            f"nothing is published on {old.name} ({old.digest[:12]}), the backbone of POLYHEAD_BACKBONE and "
            "its settings, which have to be those of the servers; tasks on other backbones: "
            f"{others or 'none'}"
        )
    wanted = _served(store, old, options)
    unknown = sorted(set(options.tasks) - {each.task_name for each in wanted})
    if unknown or not wanted:
        whose = "" if options.tenant is None else f" of tenant {options.tenant}"
        raise PreparationFailed(
            f"nothing is published{whose} on {old.name}: {', '.join(unknown) or 'no task'}"
        )


def _served(store: Store, old: BackboneIdentity, options: PrepareOptions) -> list[Served]:
    return [
        each
        for each in store.aliases.served(old.digest)
        if (not options.tasks or each.task_name in options.tasks) and options.tenant in (None, each.tenant)
    ]


def _plans(trainer: Trainer, old: BackboneIdentity, options: PrepareOptions) -> list[Outcome]:
    plans = []
    for each in _served(trainer.bench.store, old, options):
        trainer.check()
        with suppress(UnknownTask, UnknownVersion):
            plans.append(_successor(trainer, each, options).plan())
    return plans


def _work(trainer: Trainer, preparation: Preparation, say: Say) -> None:
    """Until everything that is served has had its turn, also what was published meanwhile.

    Raises: Stopping; NotReady.
    """
    done: dict[Served, Outcome | None] = {}  # None: its task was deleted
    waited_for = set[str]()
    while True:
        served = _served(trainer.bench.store, preparation.old, preparation.options)
        preparation.outcomes = [outcome for each in served if (outcome := done.get(each))]
        pending = [each for each in served if each not in done]
        if not pending:
            return
        before, total = len(done), len(done) + len(pending)
        for each in pending:
            trainer.check()
            try:
                done[each] = outcome = _turn(trainer, each, preparation.options, _prefixed(say, each))
            except Busy as busy:
                if busy.run_id not in waited_for:
                    waited_for.add(busy.run_id)
                    say(f"{each.task_name}: run {busy.run_id} of its users is active, this comes after it")
                continue
            if outcome is not None:
                preparation.outcomes.append(outcome)
                say(f"{len(done)} of {total}: {described_outcome(outcome)}")
        if len(done) == before:
            trainer.stop.wait(LOOK_S)


def _turn(trainer: Trainer, served: Served, options: PrepareOptions, say: Say) -> Outcome | None:
    """None: the task was deleted."""
    try:
        return _successor(trainer, served, options).prepare(say)
    except (UnknownTask, UnknownVersion):
        say("it was deleted meanwhile")
        return None


def _successor(trainer: Trainer, served: Served, options: PrepareOptions) -> Successor:
    """Raises: UnknownTask, UnknownVersion."""
    store = trainer.bench.store
    task = store.tasks.get_by_id(served.task_id)
    old = store.versions.get(task, served.version)
    return Successor(trainer=trainer, served=served, task=task, old=old, tolerance=options.tolerance)


def _prefixed(say: Say, served: Served) -> Callable[[str], object]:
    return lambda line: say(f"{served.task_name} version {served.version}: {line}")
