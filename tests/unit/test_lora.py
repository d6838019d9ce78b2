import re

import numpy as np
import pytest
import torch

from models.backbone import Backbone
from models.errors import InvalidOption
from models.strategies.options import LoraOptions
from models.strategies.rule import Means, choose_rule
from models.strategies.rungs import rung_options
from models.tail import split_at, targets
from models.tails import check_rank
from tests.networks import pointwise
from tests.unit.ladder import Ticking, family
from tests.unit.test_last_block import Case

pytest.importorskip("peft")
from models.strategies.explore import explore
from models.strategies.finish import fit
from models.strategies.lora import _adapted, lora, merged

pytestmark = pytest.mark.usefixtures("one_thread")


def parameters_of(backbone: Backbone):
    return sum(each.numel() for each in backbone.module.parameters())


@pytest.mark.parametrize("name", ["efficientnet", "mobilenetv3", "convnext", "vit", "swin", "resnet"])
def test_factors_are_put_on_every_linear_and_pointwise_layer_and_nothing_else(name):
    split = split_at(family(name), 1)
    adapted = _adapted(split, LoraOptions(rank=2))
    with_factors = {
        re.sub(r"\.lora_[AB].*", "", name) for name, _ in adapted.named_parameters() if ".lora_" in name
    }
    cost = sum(tensor.numel() for name, tensor in adapted.named_parameters() if ".lora_" in name)

    assert with_factors == set(targets(split.tail))
    assert cost == 2 * sum(targets(split.tail).values())


def test_the_default_rank_is_under_one_percent_of_the_default_backbone():
    backbone = family("efficientnet")
    split = split_at(backbone, 1)
    total = parameters_of(backbone)
    share = {rank: rank * sum(targets(split.tail).values()) / total for rank in (4, 8)}

    assert {rank: round(100 * value, 2) for rank, value in share.items()} == {4: 0.52, 8: 1.05}
    check_rank(LoraOptions().rank, sum(targets(split.tail).values()), total)


def test_a_rank_too_high_names_the_largest_that_fits():
    backbone = family("efficientnet")
    split, total = split_at(backbone, 1), parameters_of(backbone)
    with pytest.raises(InvalidOption, match="option rank must be at most 7"):
        check_rank(LoraOptions(rank=8).rank, sum(targets(split.tail).values()), total)
    check_rank(LoraOptions(rank=7).rank, sum(targets(split.tail).values()), total)


def lite0_case():
    return Case(count=200, augmentation="none", backbone=family("efficientnet"))


def recipe_of(case, **options):
    given = LoraOptions(**{"epochs": 2, "warmup_epochs": 0, "augmentation": "none"} | options)
    return lora(case.dataset, case.maps, case.split, given, total_backbone_parameters=case.total)


def fitted(case, clock=None, **options):
    return merged(fit(recipe_of(case, **options), report=lambda _: None, clock=clock))


def head_alone(case):
    """What `lora` starts from, fitted and refitted as it is."""
    return fitted(case, epochs=0, rank=2).fit


def test_the_merged_tail_differs_from_the_trunks_own_by_the_factors_alone():
    case = lite0_case()
    given = (*("train",) * 150, *("test",) * 50)  # without validation, the last epoch is what is kept
    case.dataset = type(case.dataset)(
        **{**{key: getattr(case.dataset, key) for key in case.dataset.__dataclass_fields__}, "splits": given}
    )
    tuned = fitted(case)
    before, after = dict(case.split.tail.named_parameters()), dict(tuned.network.named_parameters())
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    scaling = LoraOptions().alpha / LoraOptions().rank

    assert before.keys() == after.keys()
    assert moved == {f"{name}.weight" for name in targets(case.split.tail)}
    assert sum(each.size for each in tuned.factors.values()) < 0.01 * case.total
    for name in targets(case.split.tail):
        low, high = (tuned.factors[f"{name}.lora_{letter}.default.weight"] for letter in "AB")
        shape = before[f"{name}.weight"].shape
        update = scaling * (high.reshape(high.shape[0], -1) @ low.reshape(low.shape[0], -1))
        change = (after[f"{name}.weight"] - before[f"{name}.weight"]).numpy()
        np.testing.assert_allclose(change, update.reshape(shape), atol=1e-5)
    buffers = zip(case.split.tail.buffers(), tuned.network.buffers(), strict=True)
    assert all(torch.equal(a, b) for a, b in buffers)


def test_what_trains_are_the_factors_and_the_head():
    case = lite0_case()
    tuned = fitted(case)
    named = tuned.parameters.parameters

    assert all(".lora_" in name or name.startswith("head.") for name in named)
    assert tuned.fit.decision["parameters"]["by_name"] == named
    assert tuned.fit.decision["strategy"] == "lora"
    assert tuned.fit.metrics["primary"]["value"] > 0.3


@pytest.mark.parametrize(("count", "attempts"), [(200, 1), (60, 5)], ids=["held out", "out of fold"])
def test_a_schedule_that_harms_ends_where_it_started_and_serves_the_head_alone(count, attempts):
    case = Case(count=count, augmentation="none", backbone=family("efficientnet"))
    tuned, head = fitted(case, lr=3.0), head_alone(case)
    epochs = tuned.fit.decision["epochs"]

    assert (epochs["best"], epochs["ended_by"]) == ([0] * attempts, ["epochs"] * attempts)
    assert (epochs["served"], epochs["served_planned"]) == (0, 0)
    assert len(tuned.fit.history) == 3 * attempts  # nothing is stopped early
    assert tuned.fit.fitted_on == head.fitted_on
    np.testing.assert_array_equal(tuned.fit.head.weight, head.head.weight)
    np.testing.assert_array_equal(tuned.fit.evaluated_scores, head.evaluated_scores)
    before, after = case.split.tail.state_dict(), tuned.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(high.any() for name, high in tuned.factors.items() if ".lora_B." in name)


def test_a_schedule_that_helps_serves_all_of_its_epochs():
    case = Case(count=700, augmentation="none", backbone=pointwise())
    options = {"rank": 2, "lr": 5e-3, "decay": 10.0}
    tuned, head = fitted(case, epochs=12, **options), head_alone(case)
    start, *between, end = (entry["score"] for entry in tuned.fit.history)

    assert end > start > min(between), "its way is meant to dip"
    assert tuned.fit.decision["epochs"]["best"] == [12]
    assert (tuned.fit.decision["epochs"]["served"], tuned.fit.fitted_on) == (12, "train+validation")
    assert not np.array_equal(tuned.fit.head.weight, head.head.weight)


def test_few_validation_examples_leave_the_choice_to_whoever_compares_the_strategies():
    candidate = explore(recipe_of(lite0_case(), lr=3.0), report=lambda _: None, few_validation=1000)
    assert [attempt.trained.epochs for attempt in candidate.attempts] == [2, 2, 2]


def test_a_budget_that_ends_on_its_way_keeps_no_less_than_the_head():
    case = lite0_case()
    tuned, head = fitted(case, clock=Ticking(), max_seconds=60, epochs=50, lr=3.0), head_alone(case)
    epochs = tuned.fit.decision["epochs"]

    assert (epochs["best"], epochs["ended_by"]) == ([0], ["max_seconds"])
    assert 1 < len(tuned.fit.history) < 51
    assert tuned.fit.metrics["primary"] == head.metrics["primary"]


def test_the_rung_of_auto_may_end_where_it_started_too():
    rule = choose_rule(1000, (500, 500), "distant", Means(blocks=(1, 2), lora=True))
    assert rung_options(rule, "lora", seed=0, max_seconds=60).monitor == LoraOptions().monitor == "end"
