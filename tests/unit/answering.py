"""A small server that answers the client as it is told, and photos to send there."""

import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from rich.console import Console

from service.client.folder import Photo
from service.client.upload import Loaded
from service.layouts import Labelling

PROBLEM = {"status": 422, "code": "invalid_image", "detail": "the image can't be decoded: truncated"}


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    @property
    def photos(self) -> int:
        """How many `file` parts a multipart body has."""
        return self.body.count(b'name="file"')


@dataclass
class Answer:
    body: object = field(default_factory=dict)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@contextmanager
def serving(answer: Callable[[Request], Answer]) -> Iterator[str]:
    """A real HTTP server on a free port, answering each request with what `answer` says."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            said = answer(Request(self.command, url.path, parse_qs(url.query), headers, body))
            data = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
            self.send_response(said.status)
            for name, value in {"Content-Length": str(len(data)), **said.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = respond  # noqa: N815  # names that http.server calls

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def quiet() -> Console:
    return Console(file=io.StringIO(), width=120, markup=False)


def said_by(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def loaded(name: str, label: str, size: int = 1) -> Loaded:
    return Loaded(Photo(Path(name), name, Labelling(labels=(label,))), b"x" * size)


def photos_in(folder: Path, *names: str) -> list[Photo]:
    photos = list[Photo]()
    for name in names:
        (folder / name).write_bytes(name.encode())
        photos.append(Photo(folder / name, name, Labelling(labels=("cat",))))
    return photos
