"""What a lone trainer tells machines, on a port of its own: whether it is alive, and its metrics."""

import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from service.metrics import CONTENT_TYPE, metrics_text
from service.processes.listener import listen

HUNG_S = 900.0  # longer than the longest request to an object store, 600 s, in which a trainer can't look up


class Stop(threading.Event):
    """Set when the trainer should stop; knows when the trainer last looked.

    It looks before every claim and all the way through a run: one that hasn't for long hangs, whatever its
    other threads do.
    """

    def __init__(self) -> None:
        super().__init__()
        self._looked_at = time.monotonic()

    def is_set(self) -> bool:
        self._looked_at = time.monotonic()
        return super().is_set()

    @property
    def silence_s(self) -> float:
        """Seconds since the trainer last looked."""
        return time.monotonic() - self._looked_at


def answer_probes(host: str, port: int, stop: Stop, *, hung_s: float = HUNG_S) -> ThreadingHTTPServer:
    """Answer /livez and /metrics in a thread that ends with the process. Raises: CannotListen."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/livez":
                hangs = stop.silence_s > hung_s
                status = HTTPStatus.SERVICE_UNAVAILABLE if hangs else HTTPStatus.OK
                self._answer(status, "text/plain", b"the trainer hangs\n" if hangs else b"ok\n")
            elif self.path == "/metrics":
                self._answer(HTTPStatus.OK, CONTENT_TYPE, metrics_text())
            else:
                self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"/livez or /metrics\n")

        def _answer(self, status: HTTPStatus, media_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Asked every few seconds by machines."""

    server = ThreadingHTTPServer((host, port), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listen(host, port)
    threading.Thread(target=server.serve_forever, name="probes", daemon=True).start()
    return server
