"""`polyhead serve` with the small app: `python -m tests.integration.engine.small_server`."""

import os

from service.listener import check_free
from service.preflight import Preflight, check_folders
from service.settings import Settings
from service.telemetry import configure_logging, metrics_folder


def main() -> None:
    settings = Settings()
    configure_logging(settings.log_level, "main")
    check_free(settings.host, settings.port)
    check_folders(settings)
    with metrics_folder(), Preflight(settings) as preflight:
        from service.server import Server
        from tests.integration.engine.small_app import make_app

        Server(settings, preflight.result(), make_app).run()


if __name__ == "__main__":
    main()
