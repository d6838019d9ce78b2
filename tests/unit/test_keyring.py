"""Which key a text is, and how long an answer to that is kept."""

import asyncio
from dataclasses import replace

import pytest

from service.errors import InvalidKey, StoreUnavailable
from service.store.records import ApiKey
from service.store.tokens import Peppers, Token
from service.web import keyring
from service.web.keyring import Keyring

TOKEN = Token.new()
PEPPERS = Peppers(("p" * 64, "q" * 64))


def kept(pepper, **changed):
    values = {
        "id": TOKEN.id, "tenant": "acme", "name": "shop", "scopes": ("predict",), "created_at": 1.0,
        "digest": PEPPERS.digest(TOKEN, pepper), "pepper": pepper, "last_used_at": 100.0,
    }  # fmt: skip
    return ApiKey(**values | changed)


class Keys:
    """What the store would say, how often it was asked, and what it was told."""

    def __init__(self):
        self.key = kept(PEPPERS.ids[0])
        self.asked = 0
        self.error = None
        self.noted = []

    def find(self, key_id):
        self.asked += 1
        if self.error:
            raise self.error
        return self.key if self.key and self.key.id == key_id else None

    def note_use(self, key_id, now, *, apart_s, kept):
        if self.error:
            raise self.error
        self.noted.append((key_id, now, apart_s, kept))


class Time:
    def __init__(self):
        self.s = 100.0

    def __call__(self):
        return self.s


@pytest.fixture
def keys():
    return Keys()


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def identify(keys, time):
    async def all_of(text):
        key = await ring.identify(text)
        await ring.written()
        return key

    with asyncio.Runner() as runner:

        async def make():
            return Keyring(keys, PEPPERS, clock=time, now=time)

        ring = runner.run(make())

        def identify(text=TOKEN.text):
            return runner.run(all_of(text))

        identify.ring, identify.run = ring, runner.run
        yield identify


def test_a_key_is_known_by_its_text(keys, identify):
    assert identify() == keys.key


@pytest.mark.parametrize(
    "text",
    ["", "x", Token(TOKEN.id, "0" * 64).text, Token("key_" + "0" * 26, TOKEN.secret).text],
    ids=["empty", "no key", "another secret", "another id"],
)
def test_anything_else_is_not(identify, text):
    with pytest.raises(InvalidKey):
        identify(text)


def test_what_cannot_be_a_key_does_not_reach_the_store(keys, identify):
    with pytest.raises(InvalidKey):
        identify("Bearer me")
    assert keys.asked == 0


def test_an_answer_is_kept_for_a_second_and_a_revoked_key_is_refused_after_it(keys, time, identify):
    identify()
    keys.key = replace(keys.key, revoked_at=100.0)
    time.s += 0.9
    identify()
    time.s += 0.2
    with pytest.raises(InvalidKey):
        identify()
    assert keys.asked == 2


def test_no_key_is_kept_as_well(keys, identify):
    keys.key = None
    for _ in range(3):
        with pytest.raises(InvalidKey):
            identify()
    assert keys.asked == 1


def test_without_the_store_a_known_key_goes_on_for_some_minutes(keys, time, identify):
    identify()
    keys.error = StoreUnavailable()
    time.s += keyring.STALE_S - 1
    assert identify().tenant == "acme"
    time.s += 2
    with pytest.raises(StoreUnavailable):
        identify()


def test_without_the_store_nobody_can_say_of_a_new_key(keys, identify):
    keys.error = StoreUnavailable()
    with pytest.raises(StoreUnavailable):
        identify()


def test_a_use_is_written_once_a_minute(keys, time, identify):
    keys.key = replace(keys.key, last_used_at=None)
    for _ in range(130):
        identify()
        time.s += 1
    assert [noted[1] for noted in keys.noted] == [100.0, 160.0, 220.0]
    assert keys.noted[0] == (TOKEN.id, 100.0, keyring.USES_APART_S, None)


def test_what_another_server_has_written_is_not_written_again(keys, time, identify):
    keys.key = replace(keys.key, last_used_at=95.0)
    identify()
    assert keys.noted == []


def test_a_key_under_an_old_pepper_moves_to_the_first(keys, identify):
    first, second = PEPPERS.ids
    keys.key = kept(second)
    identify()
    identify()
    assert [noted[3] for noted in keys.noted] == [(PEPPERS.digest(TOKEN, first), first)]


def test_a_key_under_a_pepper_that_was_taken_away_is_refused(keys, identify):
    keys.key = replace(keys.key, pepper="0" * 16)
    with pytest.raises(InvalidKey):
        identify()


def test_of_many_made_up_ids_a_bounded_number_is_kept(identify, monkeypatch):
    monkeypatch.setattr(keyring, "CAPACITY", 10)
    for _ in range(30):
        with pytest.raises(InvalidKey):
            identify(Token.new().text)
    assert len(identify.ring._entries) == 10


def test_a_long_answer_can_ask_whether_its_key_still_is_valid(keys, time, identify):
    key = identify()
    assert identify.run(identify.ring.is_valid(key))
    keys.key = replace(keys.key, revoked_at=100.0)
    time.s += 2
    assert not identify.run(identify.ring.is_valid(key))
