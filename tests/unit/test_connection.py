"""Connections of uvicorn that send more before, or after, a body than they may."""

import socket
import threading
import time

import pytest
import uvicorn

from service.processes.connection import MAX_HEAD_BYTES, BoundedConnection


async def app(scope, receive, send):
    """Answers with the size of the body."""
    if scope["type"] != "http":
        return
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    body = str(size).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def address():
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http=BoundedConnection, lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield listener.getsockname()
    server.should_exit = True
    thread.join()
    listener.close()


def talk(address, *pieces):
    """Send pieces for as long as they are taken, and return what comes until the server ends it."""
    said = b""
    with socket.create_connection(address, timeout=10) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
            while chunk := connection.recv(2**16):
                said += chunk
        except ConnectionError:
            pass  # it may be reset while we are still sending
    return said


def request(*headers, body=b""):
    lines = [b"POST / HTTP/1.1", b"Host: x", b"Connection: close", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


LONG = b"a" * (MAX_HEAD_BYTES + 1)
ENDLESS = {
    "one header": [b"POST / HTTP/1.1\r\nX-Long: ", LONG, LONG],
    "many headers": [b"POST / HTTP/1.1\r\n", *[b"X-Short: a\r\n"] * 7000],
    "path": [b"POST /", LONG, LONG],
    "blank lines": [b"\r\n" * MAX_HEAD_BYTES],
}


@pytest.mark.parametrize("pieces", ENDLESS.values(), ids=ENDLESS)
def test_an_endless_head_is_431_and_the_end(address, pieces):
    answer = talk(address, *pieces)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")


def test_endless_trailers_are_the_end(address):
    chunked = request(b"Transfer-Encoding: chunked", body=b"1\r\na\r\n0\r\n")
    assert b"200 OK" not in talk(address, chunked, *[b"X-Short: a\r\n"] * 7000)


@pytest.mark.parametrize("size", [0, 1, 10**7])
def test_a_body_may_be_as_long_as_it_likes(address, size):
    answer = talk(address, request(b"Content-Length: %d" % size, body=b"a" * size))
    assert answer.endswith(b"%d" % size)


def test_a_body_in_very_many_chunks_is_read(address):
    chunks = b"1\r\na\r\n" * 50_000 + b"0\r\nX-Trailer: fine\r\n\r\n"
    assert talk(address, request(b"Transfer-Encoding: chunked", body=chunks)).endswith(b"50000")


def test_a_long_head_within_the_bound_is_read(address):
    headers = [b"X-%d: %s" % (number, b"a" * 1000) for number in range(60)]
    assert b"200 OK" in talk(address, request(*headers))


def test_one_connection_takes_many_requests(address):
    one = b"POST / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 30_000 + b"\r\nContent-Length: 1\r\n\r\na"
    with socket.create_connection(address, timeout=5) as connection:
        for _ in range(9):
            connection.sendall(one)
            assert b"200 OK" in connection.recv(2**16)
            time.sleep(0.02)
