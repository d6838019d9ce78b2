"""`polyhead serve` with the small app and no trainer: `python -m … FILE`."""

import sys
from pathlib import Path

from service.processes.preflight import Prepared
from service.settings import Settings
from service.telemetry import configure_logging, metrics_folder


def main() -> None:
    """FILE holds what a preflight has answered: it takes seconds, and one is enough for all tests."""
    settings = Settings(trainers=0)
    configure_logging(settings.log_level, "main")
    prepared = Prepared.from_json(Path(sys.argv[1]).read_text())
    with metrics_folder():
        from service.processes.server import Server  # noqa: PLC0415 - the metrics need their folder first
        from tests.integration.engine.small_app import make_app  # noqa: PLC0415

        Server(settings, prepared, make_app).run()


if __name__ == "__main__":
    main()
