"""A backup that is made under traffic, and what comes back of it where nothing else is left."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tests.faults.reader import Reader
from tests.faults.scene import Injected, Scene
from tests.servers import clean_environment, variable

LONGEST_S = 240.0  # of a command, on a machine that is busy


def restore_backup(scene: Scene) -> Injected:
    """Into an empty database and an empty place for blobs; the deployment that was backed up goes on.

    What was acknowledged before the backup began has to be there.
    """
    deployment, phase, at = scene.deployment, scene.phases(), time.monotonic()
    cluster = deployment.cluster
    known = scene.traffic.ledger.acknowledged()
    with tempfile.TemporaryDirectory() as folder, cluster.database(migrated=False) as url:
        place = str(Path(folder) / "backup")
        empty = replace(deployment, database_url=url, blob_url=cluster.blobs())
        _polyhead(deployment.store, "backup", place)
        _polyhead(empty.store, "restore", place)
        _polyhead(empty.store, "verify")
        wrong = Reader(empty).lacks(known)
    assert not wrong, "\n".join(wrong[:20])
    kept = f"{len(known.examples)} examples, {len(known.versions)} versions, {len(known.runs)} runs"
    return Injected(phase, at, time.monotonic(), f"came back: {kept}")


def _polyhead(settings: Mapping[str, str], *command: str) -> None:
    environment = clean_environment() | {variable(name): value for name, value in settings.items()}
    done = subprocess.run(
        [sys.executable, "-m", "service", *command],
        env=environment, capture_output=True, text=True, check=False, timeout=LONGEST_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
