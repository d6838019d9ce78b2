from dataclasses import replace

import numpy as np
import pytest
import torch

from models.blocks import coarse_blocks
from models.graph import preprocessing_of
from models.strategies.explore import explore
from models.strategies.finetune import finetune, randomised
from models.strategies.finish import fit
from models.strategies.options import FinetuneOptions
from models.strategies.sources import PixelSource, augmenter
from models.tail import Tail
from models.views import flipped
from tests.unit.ladder import embedded, family, scans
from tests.unit.test_last_block import LABELS, normed

pytestmark = pytest.mark.usefixtures("one_thread")


class Case:
    def __init__(self, count=300, **fields):
        self.backbone = normed()
        self.pixels, digits = scans(self.backbone, count)
        self.dataset = embedded(
            self.backbone, self.pixels, "multiclass", digits.astype(np.int64), LABELS, **fields
        )

    def options(self, **options):
        given = {"epochs": 3, "lr": 5e-3, "batch_size": 16, "augmentation": "none"}
        return FinetuneOptions(**given | options)

    def fit(self, **options):
        recipe = finetune(self.dataset, self.pixels, self.backbone, self.options(**options))
        return fit(recipe, report=lambda _: None)


def unstopped(count=300):
    """Without validation examples the last epoch is what is kept."""
    case = Case(count)
    given = (*("train",) * (count - 100), *("test",) * 100)
    case.dataset = replace(case.dataset, splits=given, split_by_user=(True,) * count)
    return case


def moved(before, after):
    """Relative change of each parameter tensor."""
    return {
        name: float((after[name] - tensor).norm() / tensor.norm().clamp(min=1e-12))
        for name, tensor in before.items()
        if "running" not in name and "num_batches" not in name
    }


def test_every_block_trains_and_earlier_ones_less():
    case = unstopped()
    before = {name: tensor.clone() for name, tensor in case.backbone.module.state_dict().items()}
    change = moved(before, case.fit(decay=0.1).network.network.state_dict())
    same = dict(case.backbone.module.state_dict())

    assert all(value > 0 for value in change.values())
    assert change["stem.0.weight"] < 0.5 * change["body.0.weight"]
    assert all(torch.equal(before[name], tensor) for name, tensor in same.items())


def test_one_rate_for_all_disturbs_the_stem_more():
    case = unstopped()
    before = {name: tensor.clone() for name, tensor in case.backbone.module.state_dict().items()}
    single, own = (
        moved(before, case.fit(single_lr=single).network.network.state_dict()) for single in (True, False)
    )

    assert single["stem.0.weight"] > 1.5 * own["stem.0.weight"]


def test_gradual_unfreezing_reaches_back_one_block_at_a_time():
    case = unstopped()
    before = {name: tensor.clone() for name, tensor in case.backbone.module.state_dict().items()}

    def changed(epochs):
        tuned = case.fit(epochs=epochs, unfreeze_every=2, warmup_epochs=1)
        now = tuned.network.network.state_dict()
        return {name.partition(".")[0] for name in before if not torch.equal(before[name], now[name])}

    assert changed(0) == set()
    assert changed(2) == {"body"}
    assert changed(3) == {"stem", "body"}


def test_frozen_statistics_stand_still_even_where_thawed_ones_follow_the_batches():
    case = unstopped()
    before = {name: tensor.clone() for name, tensor in case.backbone.module.state_dict().items()}
    tuned = case.fit(epochs=2, unfreeze_every=2, warmup_epochs=1, batch_norm="train")
    now = tuned.network.network.state_dict()
    moved = {name for name in before if not torch.equal(before[name], now[name])}

    assert moved == {name for name in before if name.startswith("body.")}
    assert {"body.1.running_mean", "body.1.running_var"} <= moved


def test_from_random_weights_nothing_of_the_pretrained_ones_is_left():
    tail = Tail(family("convnext").module, "pre-logits")
    before = {name: tensor.clone() for name, tensor in tail.named_parameters()}
    randomised(tail)
    ones = [name for name, tensor in tail.named_parameters() if tensor.ndim == 1]  # norms start at 0 or 1

    assert all(
        not torch.equal(before[name], now) for name, now in tail.named_parameters() if name not in ones
    )


def test_from_random_weights_starts_with_a_random_head():
    case = Case(120)
    tuned = case.fit(pretrained=False, epochs=1)

    assert tuned.fit.decision["start"] == "random head"
    assert tuned.fit.history[0]["score"] < 0.8


def test_the_same_seed_gives_the_same_network_with_augmentation():
    case = Case(120)
    one, other = (case.fit(augmentation="heavy", epochs=1, patience=9) for _ in range(2))

    assert one.fit.history == other.fit.history


def test_all_that_trains_is_said():
    case = Case(120)
    tuned = case.fit(epochs=1)

    total = sum(each.numel() for each in case.backbone.module.parameters())
    assert tuned.fit.trainable_parameters == tuned.fit.total_parameters == total + 68
    by_name = tuned.fit.decision["parameters"]["by_name"]
    names = [name for name, _ in case.backbone.module.named_parameters()]
    assert set(by_name) == {*(f"network.{name}" for name in names), "head.weight", "head.bias"}
    assert by_name["network.body.1.weight"] == 16
    assert tuned.fit.decision["blocks"] == [block.name for block in coarse_blocks(case.backbone)]


def test_it_starts_from_the_exact_head():
    case = Case()
    recipe = finetune(case.dataset, case.pixels, case.backbone, case.options(epochs=0, warmup_epochs=0))
    candidate = explore(recipe, report=lambda _: None)
    head = case.dataset.embeddings
    (attempt,) = candidate.attempts
    scaled = attempt.adapted.head
    with torch.no_grad():
        logits = scaled(torch.from_numpy(head[attempt.held])).numpy()

    np.testing.assert_allclose(attempt.trained.logits, logits, atol=1e-3)


def test_pixels_of_another_size_are_refused():
    case = Case(120)
    with pytest.raises(ValueError, match="pixels"):
        finetune(case.dataset, case.pixels[:, :16], case.backbone, case.options())


@pytest.mark.parametrize("augmentation", ["light", "heavy"])
def test_augmented_images_keep_size_and_type_and_differ_from_each_other(augmentation):
    backbone = family("resnet")
    augment = augmenter(augmentation, preprocessing_of(backbone))
    image = torch.from_numpy(scans(backbone, 1)[0][0]).permute(2, 0, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        views = [augment(image) for _ in range(4)]

    assert all((view.shape, view.dtype) == (image.shape, torch.uint8) for view in views)
    assert not all(torch.equal(views[0], view) for view in views[1:])


def test_pixels_are_normalised_as_the_backbones_graph_does():
    case = Case(120)
    source = PixelSource(case.pixels, preprocessing_of(case.backbone), "heavy", average_flips=True)
    rows = np.arange(5)
    expected = (case.pixels[rows].transpose(0, 3, 1, 2) / 255 - 0.5) / 0.25
    views = [source.answering(rows, number).numpy() for number in range(source.passes)]

    assert source.passes == 4
    np.testing.assert_allclose(views[0], expected, atol=1e-5)
    np.testing.assert_allclose(views[1], expected[..., ::-1], atol=1e-5)
    np.testing.assert_allclose(views[2], expected[..., ::-1, :], atol=1e-5)
    np.testing.assert_array_equal(flipped(flipped(case.pixels, "both"), "both"), case.pixels)
