"""What is recorded of a backbone's tails, and what a request is told from it."""

from dataclasses import replace

import pytest

from models.errors import InvalidOption, NoTail
from models.tail import describe_tails, split_at
from models.tails import Tails, views_within
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


def test_as_many_views_as_fit_are_kept():
    tail = describe_tails(tiny()).of(1)  # (8, 8, 8) float16
    views = ("as it is", "left-right", "top-bottom", "both")
    assert views_within(tail, 10, views, 4 * 10_240) == views
    assert views_within(tail, 10, views, 3 * 10_240 - 1) == views[:2]
    with pytest.raises(InvalidOption, match="POLYHEAD_SCRATCH_BYTES"):
        views_within(tail, 10, views, 10_239)
