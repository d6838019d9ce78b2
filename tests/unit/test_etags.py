"""Preconditions, as RFC 9110 has them."""

import pytest

from service.errors import StaleETag
from service.web.etags import IfMatch, etag_of, is_known


def test_without_a_precondition_the_last_write_wins():
    assert IfMatch(None).check(3) is None
    assert IfMatch(None).check(None) is None


@pytest.mark.parametrize("header", ['"3"', '"1", "3"', '"x" , "3"', "*", " * "])
def test_a_matching_tag_is_insisted_on(header):
    assert IfMatch(header).check(3) == 3


@pytest.mark.parametrize("header", ['"4"', "3", 'W/"3"', "", '"3', '"33"', "nonsense"])
def test_anything_else_is_stale(header):
    with pytest.raises(StaleETag):
        IfMatch(header).check(3)


@pytest.mark.parametrize("header", ["*", '"3"'])
def test_nothing_matches_what_is_not_there(header):
    with pytest.raises(StaleETag):
        IfMatch(header).check(None)


@pytest.mark.parametrize(
    ("header", "known"), [(None, False), ('"3"', True), ('W/"3"', True), ('"4"', False), ("*", True)]
)
def test_a_client_may_know_a_revision(header, known):
    assert is_known(header, 3) is known
    assert etag_of(3) == '"3"'
