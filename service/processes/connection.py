"""One HTTP connection: uvicorn's, with a bound on what precedes a body, and on what follows it."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 2**10  # request line and headers; the trailers of a chunked body
TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\n"
    b"connection: close\r\n\r\n"
)  # fmt: skip


class BoundedConnection(HttpToolsProtocol):
    """Its parser keeps headers in memory for as long as they come."""

    _unread = 0  # bytes that have come since the last headers, chunk or message ended, and were no body

    def data_received(self, data: bytes) -> None:
        self._unread += len(data)
        super().data_received(data)
        if self._unread <= MAX_HEAD_BYTES or self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(TOO_LARGE)
        self.transport.close()

    def on_headers_complete(self) -> None:
        self._unread = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unread = max(0, self._unread - len(body))
        super().on_body(body)

    def on_chunk_complete(self) -> None:
        self._unread = 0

    def on_message_complete(self) -> None:
        self._unread = 0
        super().on_message_complete()
