"""What is recorded of a backbone's tails, and what a request is told from it."""

from dataclasses import replace

import pytest

from models.errors import InvalidOption, NoTail
from models.graph import preprocessing_of
from models.tail import describe_tails, split_at
from models.tails import Kept, Tails, check_pixels, kept_within
from tests.networks import tiny
from tests.unit.ladder import family


def test_the_record_is_what_splitting_gives():
    backbone = family("resnet")
    tails = Tails.from_json(describe_tails(backbone).to_json())
    assert [each.blocks for each in tails.offered] == [1, 2, 3]
    for blocks in (1, 2, 3):
        split, said = split_at(backbone, blocks), tails.of(blocks)
        assert (said.stage, said.shape) == (split.stage, split.shape)
        assert said.parameters == sum(each.numel() for each in split.tail.parameters())
        assert said.names == tuple(block.name for block in split.blocks)


def test_more_blocks_than_there_are_are_refused_in_the_words_of_the_split():
    with pytest.raises(InvalidOption) as recorded:
        describe_tails(tiny()).of(2)
    with pytest.raises(InvalidOption) as split:
        split_at(tiny(), 2)
    assert str(recorded.value) == str(split.value)


def test_a_backbone_without_stages_says_why():
    backbone = replace(tiny(), stages=())
    with pytest.raises(NoTail, match="no output of a stage is served"):
        Tails.from_json(describe_tails(backbone).to_json()).of(1)


VIEWS = ("as it is", "left-right", "top-bottom", "both")


def kept(limit, pixel_bytes=3072):
    return kept_within(describe_tails(tiny()).of(1), 10, VIEWS, limit, pixel_bytes=pixel_bytes)


def test_as_many_views_as_fit_are_kept():
    one = 10 * 8 * 8 * 8 * 2  # bytes of a view of ten images' maps, float16
    assert kept(4 * one) == Kept(views=VIEWS, recomputed=False, bytes=4 * one)
    assert kept(3 * one - 1) == Kept(views=VIEWS[:2], recomputed=False, bytes=2 * one)


def test_where_not_even_one_view_fits_pixels_are_kept_and_every_view_is_computed_of_them():
    assert kept(10_239, pixel_bytes=1023) == Kept(views=VIEWS, recomputed=True, bytes=10_230)


def test_where_neither_fits_it_is_refused():
    with pytest.raises(
        InvalidOption, match="30,720 of pixels, more than the 10,239 that POLYHEAD_SCRATCH_BYTES"
    ):
        kept(10_239)


def test_a_networks_pixels_are_held_against_the_scratch():
    preprocessing = preprocessing_of(tiny())
    check_pixels(10, 30_720, preprocessing)
    with pytest.raises(InvalidOption, match="input_size of 32 needs 30,720 bytes"):
        check_pixels(10, 30_719, preprocessing)
