"""The faults, one function each: it breaks something, mends it, and says what it has hit."""

import os
import signal
import time
from collections.abc import Callable

from tests.faults.deployment import Member, filled, stop, wake
from tests.faults.restoring import restore_backup
from tests.faults.scene import AGAIN_S, Injected, Scene
from tests.faults.traffic import AIMED, TASKS

SLOW = {"strategy": "last_block"}  # seconds in its fit
FITTING = {
    "fitting",
    "splitting",
    "start",
    "warming up",
    "training",
    "refitting",
}  # as a run's progress names it


def kill_worker(scene: Scene) -> Injected:
    replica = scene.rng.choice(scene.deployment.replicas)
    worker, phase = replica.server.pid_of("polyhead-worker"), scene.phases()
    os.kill(worker, signal.SIGKILL)
    at = time.monotonic()
    replica.server.wait_for("polyhead-worker", other_than=worker, within_s=AGAIN_S)
    return Injected(phase, at, at)


def kill_api(scene: Scene) -> Injected:
    replica = scene.rng.choice(scene.deployment.replicas)
    api, phase = replica.server.pid_of("polyhead-api-0"), scene.phases()
    os.kill(api, signal.SIGKILL)
    at = time.monotonic()
    replica.server.wait_for("polyhead-api-0", other_than=api, within_s=AGAIN_S)
    return Injected(phase, at, at)


def kill_replica(scene: Scene) -> Injected:
    """All its processes at once; it is started again at once, and mended once it says that it is ready."""
    replica, phase, at = scene.rng.choice(scene.deployment.replicas), scene.phases(), time.monotonic()
    replica.kill()
    replica.start()
    took_s = replica.wait_until_ready()
    return Injected(phase, at, time.monotonic(), f"started in {took_s:.1f} s")


def kill_trainer_queued(scene: Scene) -> Injected:
    """While a run waits for either, both being stopped for a moment."""
    killed, other = scene.rng.sample(scene.deployment.trainers, 2)
    stop(killed, other)
    run = scene.aim()
    return _kill_trainer(scene, killed, run)


def kill_trainer_fitting(scene: Scene) -> Injected:
    run = scene.aim(**SLOW)
    end = time.monotonic() + 2 * AGAIN_S
    while scene.reader.active_runs().get(run) not in FITTING:
        assert time.monotonic() < end, scene.traffic.look(scene.deployment.replicas[0], run)
        time.sleep(0.02)
    return _kill_trainer(scene, scene.deployment.trainer_of(run), run)


def kill_trainer_exporting(scene: Scene) -> Injected:
    with scene.caught(b"GET ", "images") as (run, trainer):
        return _kill_trainer(scene, trainer, run)


def kill_trainer_publishing(scene: Scene) -> Injected:
    with scene.caught(b"PUT ", "heads") as (run, trainer):
        return _kill_trainer(scene, trainer, run)


def _kill_trainer(scene: Scene, trainer: Member, run: str) -> Injected:
    phase, at = scene.reader.active_runs()[run], time.monotonic()
    os.kill(trainer.pid, signal.SIGKILL)
    trainer.server.process.wait(AGAIN_S)
    left = trainer.server.remaining(within_s=AGAIN_S)
    for each in scene.deployment.trainers:
        each.objects.release()
    wake(*scene.deployment.trainers)
    trainer.start()
    assert not left, f"the trainer's child outlived it: {left}"
    scene.expect_success(run)
    took_s = time.monotonic() - at
    trainer.wait_until_ready()
    return Injected(phase, at, time.monotonic(), f"the run went on and was over {took_s:.1f} s later")


def wake_after_lease(scene: Scene) -> Injected:
    """Stopped as it publishes, until another has published the run; then it goes on from where it was."""
    with scene.caught(b"PUT ", "heads") as (run, trainer):
        phase, at = scene.reader.active_runs()[run], time.monotonic()
        stop(trainer)
        for each in scene.deployment.trainers:
            each.objects.release()
        try:
            scene.expect_success(run)
        finally:
            wake(trainer)
        stopped_s = time.monotonic() - at
        (row,) = scene.reader.rows("SELECT attempt FROM runs WHERE id = :run", run=run)
        assert row["attempt"] > 1, "it went on before its lease was over"
    mended_at = time.monotonic()
    while not trainer.says("run_dropped", run):
        assert time.monotonic() < mended_at + AGAIN_S, trainer.server.tail()
        time.sleep(0.1)
    scene.expect_success(run)
    return Injected(phase, at, mended_at, f"woken after {stopped_s:.1f} s, it published nothing")


def refuse_database(scene: Scene) -> Injected:
    return _cut(scene, "database", "refuse", scene.refused_s)


def freeze_database(scene: Scene) -> Injected:
    return _cut(scene, "database", "freeze", scene.frozen_s)


def refuse_objects(scene: Scene) -> Injected:
    return _cut(scene, "objects", "refuse", scene.refused_s)


def freeze_objects(scene: Scene) -> Injected:
    return _cut(scene, "objects", "freeze", scene.frozen_s)


def _cut(scene: Scene, what: str, how: str, seconds: float) -> Injected:
    """Between all four and PostgreSQL or S3. Predictions go on, and each replica says that it is degraded."""
    phase, at = scene.phases(), time.monotonic()
    proxies = [getattr(each, what) for each in scene.deployment.members]
    for proxy in proxies:
        getattr(proxy, how)()
    try:
        time.sleep(2)
        for replica in scene.deployment.replicas:
            ready = scene.traffic.ask("probe", replica, "GET", "/readyz")
            assert ready is not None
            assert (ready.status_code, ready.json().get("degraded")) == (200, ["store"]), ready.text
            for task in TASKS:
                predicted = scene.traffic.predict(replica, task)
                assert predicted is not None
                # A head that was published just before may not be here yet.
                may_be = {200} if what == "database" else {200, 503}
                assert predicted.status_code in may_be, predicted.text
        # A number of its own for each cut, so that it is no duplicate.
        refused = scene.traffic.upload(
            scene.rng.choice(scene.deployment.replicas), AIMED, "red", _numbers(scene)
        )
        assert not refused, "a write was acknowledged without its store"
        time.sleep(max(0.0, at + seconds - time.monotonic()))
    finally:
        for proxy in proxies:
            proxy.mend()
    predicted_ = scene.traffic.ledger.endings(at, "predict")
    if what == "database":
        assert set(predicted_) == {"200"}, predicted_
    return Injected(phase, at, time.monotonic(), "degraded, predictions went on")


def _numbers(scene: Scene) -> range:
    first = scene.rng.randrange(20_000, 2**30)
    return range(first, first + 1)


def fill_database_disk(scene: Scene) -> Injected:
    """PostgreSQL may end of it, and is started again."""
    disk, phase, at = scene.deployment.database_disk, scene.phases(), time.monotonic()
    assert disk is not None
    with filled(disk):
        time.sleep(scene.refused_s)
    writes = scene.traffic.ledger.endings(at, "upload")
    return Injected(phase, at, time.monotonic(), f"uploads: {_counted(writes)}")


def fill_replica_disk(scene: Scene) -> Injected:
    """No process of it ends, and nothing that it could answer without a disk fails."""
    disk, phase, at = scene.deployment.replica_disk, scene.phases(), time.monotonic()
    assert disk is not None
    replica = scene.deployment.replicas[0]
    processes = replica.server.processes()
    described = scene.traffic.ask("probe", replica, "GET", "/openapi.json")
    assert described is not None
    with filled(disk):
        for path in described.json()["paths"]:  # with an outcome that was never counted before
            scene.traffic.ask("probe", replica, "PATCH", path)
        end = at + scene.refused_s
        while time.monotonic() < end:
            for task in TASKS:
                predicted = scene.traffic.predict(replica, task)
                assert predicted is not None
                assert predicted.status_code == 200, predicted.text
            time.sleep(0.2)
    assert replica.server.processes() == processes
    return Injected(
        phase, at, time.monotonic(), f"uploads: {_counted(scene.traffic.ledger.endings(at, 'upload'))}"
    )


def fill_trainer_disk(scene: Scene) -> Injected:
    """What needs a scratch fails for want of room, and says so; the trainer goes on."""
    disk, (trainer, other) = scene.deployment.trainer_disk, scene.deployment.trainers
    assert disk is not None
    phase, at = scene.phases(), time.monotonic()
    stop(other)
    try:
        with filled(disk):
            said = scene.traffic.follow(scene.aim(**SLOW))
        assert said.get("state") == "failed", said
        assert "no room" in str(said["error"]), said
    finally:
        wake(other)
    assert trainer.server.process.poll() is None, trainer.server.tail()
    scene.expect_success(scene.aim(**SLOW))
    return Injected(phase, at, time.monotonic(), "a run failed for want of room, the next succeeded")


def restart_in_turn(scene: Scene) -> Injected:
    """SIGTERM, wait for the end, start, wait until it is ready: one after the other."""
    phase, at = scene.phases(), time.monotonic()
    for member in scene.deployment.members:
        code = member.server.stop(within_s=AGAIN_S)
        assert code == 0, member.server.tail()
        assert not member.server.remaining(within_s=AGAIN_S)
        member.start()
        member.wait_until_ready()
    return Injected(phase, at, time.monotonic(), "each ended with code 0")


def _counted(endings: dict[str, int]) -> str:
    return ", ".join(f"{count} {how}" for how, count in sorted(endings.items())) or "none"


FAULTS: dict[str, Callable[[Scene], Injected]] = {
    "kill -9 of the inference worker": kill_worker,
    "kill -9 of the API process": kill_api,
    "kill -9 of a replica": kill_replica,
    "kill -9 of a trainer, run queued": kill_trainer_queued,
    "kill -9 of a trainer, run fitting": kill_trainer_fitting,
    "kill -9 of a trainer, run exporting": kill_trainer_exporting,
    "kill -9 of a trainer, run publishing": kill_trainer_publishing,
    "SIGSTOP of a trainer past its lease": wake_after_lease,
    "PostgreSQL refuses": refuse_database,
    "PostgreSQL freezes": freeze_database,
    "S3 refuses": refuse_objects,
    "S3 freezes": freeze_objects,
    "PostgreSQL's disk is full": fill_database_disk,
    "a replica's disk is full": fill_replica_disk,
    "a trainer's disk is full": fill_trainer_disk,
    "SIGTERM of each in turn": restart_in_turn,
    "all is lost, and restored elsewhere": restore_backup,
}
