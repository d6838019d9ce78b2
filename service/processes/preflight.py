"""Everything that can be wrong before a server starts, found in a short-lived process of its own.

The main process must not import torch, and a first start needs torch to export the backbone. So
`python -m service.processes.preflight` reads settings as JSON on standard input, and answers one JSON line,
or one line that says what is wrong and exit code 2.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from models.devices import CPU, chosen_devices
from models.errors import PolyheadError
from models.identity import BackboneIdentity
from service.process import die_with, import_from_working_folder
from service.settings import Settings

if TYPE_CHECKING:
    from service.store import Store

PATIENCE_S = 6.0  # that a start may take without a word


class PreflightFailed(PolyheadError):
    """One line that says why the server can't start."""


class NobodyAdmitted(PreflightFailed):
    def __init__(self, host: str) -> None:
        super().__init__(
            f"on {host} the server asks for API keys, and there is none that is valid: make one with "
            "`polyhead key create --name NAME --scope admin`, or start with --insecure, and whoever reaches "
            "the port may do everything"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What the server serves."""

    identity: BackboneIdentity
    backbone_file: Path  # backbone.onnx
    runtime: str  # what runs it
    devices: tuple[str, ...] = (CPU,)  # and where, as torch names them

    def to_json(self) -> str:
        said = {
            "identity": self.identity.to_json(),
            "file": str(self.backbone_file),
            "runtime": self.runtime,
            "devices": self.devices,
        }
        return json.dumps(said)

    @classmethod
    def from_json(cls, text: str) -> "Prepared":
        said = json.loads(text)
        return cls(
            identity=BackboneIdentity.from_json(said["identity"]),
            backbone_file=Path(said["file"]),
            runtime=said["runtime"],
            devices=tuple(said["devices"]),
        )


class Preflight:
    """The child process that prepares and checks what the server needs."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._child = subprocess.Popen(  # noqa: S603 - nothing in it is a user's
            # -P: a folder named `service` or `models` where the user stands must not hide ours.
            [sys.executable, "-P", "-m", "service.processes.preflight", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.communicate()

    def result(self) -> Prepared:
        """Wait for it. Raises: PreflightFailed."""
        try:
            out, err = self._child.communicate(self._settings.model_dump_json(), timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            sys.stdout.write(
                f"Preparing backbone {self._settings.backbone}: the first time takes a minute …\n"
            )
            sys.stdout.flush()
            out, err = self._child.communicate()
        if self._child.returncode == 0:
            return Prepared.from_json(out)
        said = err.strip().splitlines() or [f"it ended with code {self._child.returncode} and said nothing"]
        if self._child.returncode == 2:
            raise PreflightFailed(said[-1])
        raise PreflightFailed("\n".join(["the check before the start failed:", *said]))


def check_folders(settings: Settings) -> None:
    """Make the folders of the data and the cache, and write to them. Raises: PreflightFailed."""
    for folder in (settings.data_dir, settings.cache_dir):
        try:
            # Users' images are nobody else's on this machine; a folder that is there keeps its own mode.
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe = folder / f".writable-{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise PreflightFailed(f"can't write to {folder}: {error.strerror}") from error


def prepare(settings: Settings) -> Prepared:
    """Bring the database up to date, export the backbone unless it is cached, and check what it computes.

    Raises: PolyheadError.
    """
    prepare_store(settings)
    from models.prepare import check_reference, prepare_backbone  # noqa: PLC0415 - for the child alone
    from models.runtime import open_runtime  # noqa: PLC0415

    devices = chosen_devices(settings.runtime, settings.device_numbers)
    config = replace(settings.backbone_config, device=devices[0])
    prepared = prepare_backbone(config, settings.cache_dir)
    runtime = open_runtime(prepared)
    check_reference(runtime, prepared)
    return Prepared(
        identity=prepared.identity,
        backbone_file=prepared.onnx_path,
        runtime=runtime.name,
        devices=devices,
    )


def prepare_store(settings: Settings) -> None:
    """Migrate an embedded database; of any other, ask that somebody has: replicas start beside old ones.

    Raises: NotReady, StoreUnavailable; NobodyAdmitted, UnusablePeppers.
    """
    from service.store import check_schema, migrate, open_store  # noqa: PLC0415 - for the child alone

    if settings.resolved_database_url.startswith("sqlite"):
        migrate(settings.resolved_database_url)
    store = open_store(settings.resolved_database_url, settings.resolved_blob_url)
    try:
        check_schema(store.database)
        check_keys(settings, store)
    finally:
        store.close()


def check_keys(settings: Settings, store: "Store") -> None:
    """Raises: NobodyAdmitted: keys are on and there is none; UnusablePeppers."""
    from service.store.tokens import read_peppers  # noqa: PLC0415 - for the child alone

    if not settings.needs_keys:
        return
    path = settings.resolved_key_peppers_file
    none_made = settings.key_peppers_file is None and not path.exists()
    if none_made or not store.api_keys.any_usable(read_peppers(path).ids):
        raise NobodyAdmitted(settings.host)


def main() -> int:
    # Libraries print to standard output as they like; it is ours alone from here on.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    die_with(int(sys.argv[1]))
    import_from_working_folder()
    try:
        prepared = prepare(Settings.model_validate_json(sys.stdin.read()))
    except PolyheadError as error:
        sys.stderr.write(f"{' '.join(str(error).split())}\n")
        return 2
    answer.write(prepared.to_json())
    answer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
