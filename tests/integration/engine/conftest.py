"""A prepared tiny backbone, and servers around it."""

from pathlib import Path

import pytest

from service.processes.preflight import Preflight, Prepared
from service.settings import Settings
from tests.servers import TINY

COMMAND = ("tests.integration.engine.small_server",)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Prepared:
    """What a preflight answers for the tiny backbone; the process is the real one."""
    folder = tmp_path_factory.mktemp("prepared")
    settings = Settings(backbone=TINY, data_dir=folder, cache_dir=folder / "cache")
    with Preflight(settings) as preflight:
        return preflight.result()


@pytest.fixture(scope="session")
def command(prepared, tmp_path_factory) -> tuple[str, ...]:
    """Starts the small server on the prepared backbone."""
    file: Path = tmp_path_factory.mktemp("prepared") / "prepared.json"
    file.write_text(prepared.to_json())
    return (*COMMAND, str(file))
