"""What is advised before anything is trained: the table as it is taught, and what holds for any task."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.strategies.rule import RUNGS, SIZES, Means, choose_rule, size_of

EVERYTHING = Means(blocks=(1, 2, 3))
NO_TAIL = Means(blocks=(), no_tail="no output of a stage is served", stages=False)

counts = st.lists(st.integers(0, 100_000), max_size=6)
domains = st.sampled_from(["similar", "distant"])
means = st.builds(
    Means,
    blocks=st.sampled_from([(), (1,), (2, 3), (1, 2, 3)]),
    lora=st.booleans(),
    stages=st.booleans(),
)


def test_everyday_web_photos():
    rule = choose_rule(50_000, [2_500] * 20, "similar", EVERYTHING)
    assert (rule.name, rule.start, rule.blocks) == ("large_similar", "finetune", None)
    assert (rule.augmentation, rule.batch_norm) == ("light", "train")
    assert "all blocks at discriminative rates" in rule.because


def test_grey_microscopy():
    rule = choose_rule(300, [100] * 3, "distant", EVERYTHING)
    assert (rule.name, rule.start, rule.blocks) == ("small_distant", "last_block", 2)
    assert (rule.augmentation, rule.batch_norm) == ("heavy", "eval")
    assert "thaw the later blocks" in rule.because
    assert rule.order == ("head", "stages", "last_block", "lora")
    assert "forget" in rule.not_tried["finetune"]


def test_satellite_tiles():
    rule = choose_rule(2_000, [200] * 10, "distant", EVERYTHING)
    assert (rule.name, rule.start, rule.blocks) == ("medium_distant", "last_block", 2)
    assert (rule.augmentation, rule.batch_norm) == ("heavy", "eval")
    assert "validate carefully" in rule.because


def test_product_photos():
    rule = choose_rule(5_000_000, [500] * 10_000, "similar", EVERYTHING)
    assert (rule.name, rule.start, rule.order) == (
        "large_similar",
        "finetune",
        ("head", "stages", "last_block", "finetune"),
    )
    assert rule.because.startswith("large data (5,000,000 examples) of a similar domain")


def test_little_of_the_everyday_starts_and_expects_to_end_with_the_head():
    rule = choose_rule(300, [150] * 2, "similar", EVERYTHING)
    assert (rule.start, rule.order[0], rule.augmentation) == ("head", "head", "light")
    assert "finetune" in rule.not_tried


def test_thousands_of_the_everyday_freeze_first():
    rule = choose_rule(3_000, [1_500] * 2, "similar", EVERYTHING)
    assert (rule.start, rule.blocks) == ("head", 1)
    assert "last_block" in rule.order


def test_from_scratch_is_named_as_outside_this_service():
    rule = choose_rule(5_000_000, [], "distant", EVERYTHING)
    assert rule.start == "finetune"
    assert "from scratch" in rule.because


@pytest.mark.parametrize(
    ("examples", "per_class", "size"),
    [
        (999, [], "small"),
        (1_000, [], "medium"),
        (9_999, [], "medium"),
        (10_000, [], "large"),
        (50_000, [19] * 2_631, "small"),
        (50_000, [50] * 1_000, "medium"),
        (900, [450, 450], "small"),
        (100_000, [99_990, 10], "small"),
        (100_000, [60_000, 39_995, 5], "large"),
    ],
)
def test_sizes_go_by_the_total_and_the_middle_class(examples, per_class, size):
    assert size_of(examples, per_class)[0] == size


def test_a_size_by_the_middle_class_says_so():
    assert size_of(50_000, [50] * 1_000) == ("medium", "50,000 examples, but 50 of the middle class")


@pytest.mark.parametrize("domain", ["similar", "distant"])
@pytest.mark.parametrize("examples", [300, 3_000, 30_000])
def test_without_a_tail_only_head_and_finetune_are_left(examples, domain):
    rule = choose_rule(examples, [], domain, NO_TAIL)
    assert set(rule.order) <= {"head", "finetune"}
    assert "no output of a stage is served" in rule.not_tried["last_block"]
    assert "no output of a stage is served" in rule.not_tried["lora"]
    assert "serves no stages" in rule.not_tried["stages"]


def test_a_backbone_that_cannot_be_cut_may_still_serve_its_stages():
    rule = choose_rule(300, [], "distant", Means(blocks=(), no_tail="it adds what no hook sees"))
    assert rule.order == ("head", "stages", "finetune")


def test_a_start_that_cannot_be_had_is_replaced_and_said():
    rule = choose_rule(300, [], "distant", NO_TAIL)
    assert (rule.start, rule.order) == ("head", ("head", "finetune"))
    assert "here it starts from head, since the backbone has no tail" in rule.because
    assert choose_rule(3_000, [], "distant", NO_TAIL).start == "finetune"


def test_without_peft_lora_is_not_tried():
    rule = choose_rule(300, [], "distant", Means(blocks=(1, 2), lora=False))
    assert rule.order == ("head", "stages", "last_block")
    assert "peft" in rule.not_tried["lora"]


@pytest.mark.parametrize(("offered", "blocks"), [((1,), 1), ((1, 3), 1), ((3, 4), 3)])
def test_as_many_blocks_are_thawed_as_can_be_split_off(offered, blocks):
    assert choose_rule(300, [], "distant", Means(blocks=offered)).blocks == blocks


@given(examples=st.integers(0, 10**9), per_class=counts, domain=domains, means=means)
def test_every_task_gets_one_rule_that_accounts_for_every_rung(examples, per_class, domain, means):
    rule = choose_rule(examples, per_class, domain, means)
    assert rule.start in rule.order
    assert rule.order[0] == "head"
    assert sorted([*rule.order, *rule.not_tried]) == sorted(RUNGS)
    assert list(rule.order) == [rung for rung in RUNGS if rung in rule.order]
    assert all(rule.not_tried.values())


@given(per_class=counts, more=counts, domain=domains, means=means)
def test_more_data_never_starts_lower(per_class, more, domain, means):
    """The same classes, each with at least as many examples."""
    grown = [count + extra for count, extra in zip(per_class, more + [0] * 6, strict=False)]
    before = choose_rule(sum(per_class), per_class, domain, means)
    after = choose_rule(sum(grown), grown, domain, means)
    assert SIZES.index(after.size) >= SIZES.index(before.size)
    assert RUNGS.index(after.start) >= RUNGS.index(before.start)


@given(examples=st.integers(0, 10**6), means=means)
def test_a_distant_domain_never_starts_lower(examples, means):
    similar, distant = (choose_rule(examples, [], domain, means) for domain in ("similar", "distant"))
    assert RUNGS.index(distant.start) >= RUNGS.index(similar.start)


def test_the_rule_needs_no_numerical_library():
    code = "import models.strategies.rule, sys; print({'torch', 'numpy', 'sklearn'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"
