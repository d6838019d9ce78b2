"""Buckets of requests, by the clock."""

import pytest

from service.errors import RateLimited
from service.web import rates
from service.web.rates import Rates


class Clock:
    def __init__(self):
        self.s = 1000.0

    def __call__(self):
        return self.s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def admitted(clock):
    limiter = Rates(clock)

    def admitted(times, key="key", per_minute=6):
        """How many of so many requests at once get through."""
        through = 0
        for _ in range(times):
            try:
                limiter.admit(key, per_minute)
            except RateLimited:
                continue
            through += 1
        return through

    admitted.limiter = limiter
    return admitted


def test_a_minute_s_requests_may_come_at_once_and_no_more(admitted):
    assert admitted(20) == 6


def test_what_was_used_comes_back_evenly(clock, admitted):
    admitted(6)
    clock.s += 9.9
    assert admitted(1) == 0
    clock.s += 0.1
    assert admitted(2) == 1
    clock.s += 35
    assert admitted(9) == 3


def test_a_bucket_never_holds_more_than_a_minute_s(clock, admitted):
    admitted(1)
    clock.s += 3600
    assert admitted(20) == 6


@pytest.mark.parametrize("per_minute", [1, 7, 60, 6000])
def test_a_steady_rate_goes_through_for_ever(clock, admitted, per_minute):
    for _ in range(3 * per_minute):
        assert admitted(1, per_minute=per_minute) == 1
        clock.s += 60 / per_minute


def test_a_refusal_says_when_to_come_back(clock, admitted):
    admitted(6)
    clock.s += 2.5
    with pytest.raises(RateLimited) as caught:
        admitted.limiter.admit("key", 6)
    assert caught.value.retry_after_s == 8
    clock.s += 8
    assert admitted(1) == 1


def test_each_key_has_a_bucket_of_its_own(admitted):
    assert (admitted(9, "a"), admitted(9, "b", per_minute=2)) == (6, 2)


def test_full_buckets_are_forgotten(clock, admitted, monkeypatch):
    monkeypatch.setattr(rates, "CAPACITY", 10)
    admitted.limiter._swept_at = 10
    for number in range(100):
        admitted(1, f"key-{number}")
        clock.s += 60
    assert len(admitted.limiter._full_at) <= 11
