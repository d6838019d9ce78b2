import re

import numpy as np
import pytest
import torch

from models.backbone import Backbone
from models.errors import InvalidOption
from models.strategies.options import LoraOptions
from models.tail import split_at, targets
from models.tails import check_rank
from tests.unit.ladder import family
from tests.unit.test_last_block import Case

pytest.importorskip("peft")
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


def fitted(case, **options):
    given = LoraOptions(**{"epochs": 2, "warmup_epochs": 0, "augmentation": "none"} | options)
    recipe = lora(case.dataset, case.maps, case.split, given, total_backbone_parameters=case.total)
    return merged(fit(recipe, report=lambda _: None))


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
