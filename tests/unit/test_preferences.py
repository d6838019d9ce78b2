"""`Prefer: wait=…` and `Last-Event-ID`, as clients write them."""

import pytest

from service.web.events import last_event_id
from service.web.preferences import wait_of


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("wait=30", 30),
        ("respond-async, wait=10", 10),
        ("wait = 5; foo", 5),
        ('Wait="7"', 7),
        ("wait=0", 0),
        ("wait=100000", 300),
        ("wait=-1", None),
        ("wait=soon", None),
        ("await=3", None),
        ("wait=" + "9" * 50, None),
    ],
)
def test_what_can_be_read_is_honoured_and_the_rest_ignored(header, seconds):
    assert wait_of(header) == seconds


@pytest.mark.parametrize(
    ("header", "id_"), [(None, 0), ("7", 7), ("", 0), ("x", 0), ("-1", 0), ("9" * 40, 0)]
)
def test_a_stream_goes_on_after_an_event_that_was_given_out(header, id_):
    assert last_event_id(header) == id_
