"""Keys as text, and peppers in a file."""

import hashlib
import hmac
import stat

import pytest

from service.store.tokens import Peppers, Token, UnusablePeppers, make_peppers, read_peppers

OLD, NEW = "o" * 64, "n" * 64
TOKEN = Token("key_" + "1" * 26, "2" * 64)


def test_a_key_is_its_public_id_and_a_secret():
    token = Token.new()
    assert Token.parse(token.text) == token
    assert token.text == f"ph_{token.id.removeprefix('key_')}_{token.secret}"
    assert Token.new().secret != token.secret


@pytest.mark.parametrize(
    "text",
    ["", "ph_", TOKEN.text[:-1], TOKEN.text + "0", TOKEN.text.upper(), " " + TOKEN.text, TOKEN.text + "\n"],
    ids=["empty", "prefix", "short", "long", "capitals", "space", "line end"],
)
def test_what_has_not_the_form_of_a_key_is_none(text):
    assert Token.parse(text) is None


def test_the_secret_is_in_no_repr():
    assert TOKEN.secret not in repr(TOKEN)
    assert NEW not in repr(Peppers((NEW,)))


def test_a_key_is_kept_as_hmac_sha256_of_the_whole_text():
    peppers = Peppers((NEW,))
    expected = hmac.new(NEW.encode(), TOKEN.text.encode(), hashlib.sha256).hexdigest()
    assert peppers.digest(TOKEN, peppers.ids[0]) == expected


def test_every_pepper_verifies_and_the_first_is_for_new_keys():
    (old,) = Peppers((OLD,)).ids
    digest = Peppers((OLD,)).digest(TOKEN, old)
    both = Peppers((NEW, OLD))
    assert both.ids == (Peppers((NEW,)).ids[0], old)
    assert both.verify(TOKEN, digest, old)
    assert not both.verify(TOKEN, digest, both.ids[0])
    assert not Peppers((NEW,)).verify(TOKEN, digest, old)


def test_another_secret_does_not_verify():
    peppers = Peppers((NEW,))
    digest = peppers.digest(TOKEN, peppers.ids[0])
    assert peppers.verify(TOKEN, digest, peppers.ids[0])
    assert not peppers.verify(Token(TOKEN.id, "3" * 64), digest, peppers.ids[0])


def test_a_file_of_peppers_is_made_once_and_for_its_owner_alone(tmp_path):
    path = tmp_path / "peppers"
    make_peppers(path)
    made = path.read_text()
    make_peppers(path)
    assert path.read_text() == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(read_peppers(path).ids) == 1


def test_blank_lines_are_no_peppers(tmp_path):
    (tmp_path / "peppers").write_text(f"\n{NEW}\r\n\n  {OLD}\n")
    assert read_peppers(tmp_path / "peppers").ids == Peppers((NEW, OLD)).ids


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "No such file"), (b"\n \n", "no pepper"), (b"short", "fewer than 32"), (b"\xff" * 40, "UTF-8")],
    ids=["no file", "empty", "short", "no text"],
)
def test_a_file_that_cannot_be_used_says_why_and_shows_nothing(tmp_path, content, says):
    path = tmp_path / "peppers"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnusablePeppers, match=says) as caught:
        read_peppers(path)
    assert str(path) in str(caught.value)
    assert "short" not in str(caught.value)
