"""The socket that all API processes listen on."""

import os
import socket

from models.errors import PolyheadError

BACKLOG = 2048  # connections that the kernel holds for the API processes
AT_ONCE = 16  # connections that one of them takes in one turn of its loop


class CannotListen(PolyheadError):
    def __init__(self, host: str, port: int, error: OSError) -> None:
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        super().__init__(f"can't listen on {host} port {port}: {reason}")


def listen(host: str, port: int) -> socket.socket:
    """Bind and listen; from here on the kernel accepts connections. Raises: CannotListen."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CannotListen(host, port, error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the last server's connections linger
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # "::" is for IPv4 too
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise CannotListen(host, port, error) from error
    return listener


def several(listener: socket.socket) -> list[socket.socket]:
    """The socket and copies of it, to be served as if each were one.

    libuv accepts one connection of each in a turn of the loop: of hundreds that come at one moment, the last
    would wait for as many turns.
    """
    return [listener, *(listener.dup() for _ in range(AT_ONCE - 1))]


def check_free(host: str, port: int) -> None:
    """Find out early, and without answering anybody yet. Raises: CannotListen."""
    listen(host, port).close()


def shown_url(host: str, port: int) -> str:
    """Where a browser on this machine finds the server."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{name}:{port}"
