"""Logs: one JSON object a line on standard error, from our own code and from every library.

Metrics are in `service.metrics`, which must not be imported before `metrics_folder`.
"""

import fcntl
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import structlog

# Libraries that tell of every step at "info".
CHATTY = ("alembic", "httpx", "httpcore", "litserve", "onnxscript", "torch.onnx", "uvicorn")
AUDIT = "audit"  # the logger of what was changed, by whom: never left out
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
METRICS_PREFIX = "polyhead-metrics-"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
NEW_PREFIX = "polyhead-new-"  # of the same folder until it is held: it might be taken for a leftover


def configure_logging(level: str, process: str) -> None:
    """Send every log line of this process to standard error as JSON.

    Args: level: the least severe level that is written.
          process: named in each line: "main", "api-0", "worker", "trainer".
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _named(process),
    ]
    structlog.configure(
        processors=[
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # a forked process gives itself another name
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.dict_tracebacks,
                structlog.processors.EventRenamer("message"),
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger(AUDIT).setLevel(logging.INFO)
    for name in CHATTY:
        library = logging.getLogger(name)
        library.handlers.clear()  # LitServe and uvicorn bring handlers of their own, one of them on stdout
        library.propagate = True
        library.setLevel(max(logging.WARNING, root.level))


def _named(process: str) -> Any:
    def add(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        # uvicorn repeats its message with terminal colours
        event.pop("color_message", None)
        return event | {"process": process, "pid": os.getpid()}

    return add


@contextmanager
def metrics_folder() -> Iterator[Path]:
    """Give the processes of one server a place for their metrics, empty at first and removed at the end.

    What a server that was killed has left goes too.

    In memory, where there is such a folder: prometheus_client maps its files, and the first series that needs
    another page of one on a full disk would end the process (SIGBUS).

    prometheus_client decides on import whether it shares its values between processes.
    """
    if "prometheus_client" in sys.modules:
        raise RuntimeError("the metrics folder must be there before prometheus_client is imported")
    parent = _metrics_parent()
    for left in parent.glob(f"{METRICS_PREFIX}*"):
        with suppress(OSError), _lock(left):
            shutil.rmtree(left)
    made = Path(tempfile.mkdtemp(prefix=NEW_PREFIX, dir=parent))
    with _lock(made):
        folder = made.rename(made.with_name(made.name.replace(NEW_PREFIX, METRICS_PREFIX, 1)))
        os.environ[METRICS_FOLDER] = str(folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _metrics_parent() -> Path:
    writable = os.access(SHARED_MEMORY, os.W_OK | os.X_OK)
    return SHARED_MEMORY if writable else Path(tempfile.gettempdir())


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold a folder as long as this process lives. Raises: OSError: another holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
