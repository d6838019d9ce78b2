"""An address that can't be listened on is one clear line."""

import contextlib
import socket

import pytest

from service.processes.listener import CannotListen, check_free, listen, several, shown_url
from tests.servers import free_port


def test_a_port_in_use_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotListen, match=f"127.0.0.1 port {port}: Address already in use"):
            check_free("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", "not an address"])
def test_an_address_that_is_not_this_machines_is_refused(host):
    with pytest.raises(CannotListen, match=host):
        check_free(host, free_port())


def test_a_port_whose_connections_linger_can_be_listened_on_again():
    port = free_port()
    first = listen("127.0.0.1", port)
    client = socket.create_connection(("127.0.0.1", port))
    accepted, _ = first.accept()
    accepted.close()  # the server's side closes first, and waits
    first.close()
    client.close()
    listen("127.0.0.1", port).close()


def test_ipv6_any_takes_ipv4_too():
    port = free_port()
    listener = listen("::", port)
    with listener, socket.create_connection(("127.0.0.1", port)):
        pass


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("fe80::1", "http://[fe80::1]:8000"),
    ],
)
def test_the_shown_url_works_in_a_browser_on_this_machine(host, url):
    assert shown_url(host, 8000) == url


def test_each_copy_of_a_listener_takes_what_comes_to_it():
    first = listen("127.0.0.1", 0)
    copies = several(first)
    assert copies[0] is first
    with contextlib.ExitStack() as stack:
        for copy in copies:
            stack.enter_context(copy)
            client = stack.enter_context(socket.create_connection(first.getsockname()))
            accepted, address = copy.accept()
            stack.enter_context(accepted)
            assert address == client.getsockname()
