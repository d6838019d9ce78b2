"""Strategy `stages`: an exact head on all stages, which nothing below it moves for."""

import numpy as np
import pytest
import torch

from models.graph import PixelGraph
from models.strategies.attempt import attempt_on
from models.strategies.basis import standardisation
from models.strategies.budget import Budget
from models.strategies.explore import explore
from models.strategies.finish import finish
from models.strategies.head import fit_head
from models.strategies.options import HeadOptions, StagesOptions
from models.strategies.stages import stages
from models.strategies.start import FOLDS
from models.tail import stages_of
from models.views import flipped, views_of
from tests.networks import tiny
from tests.unit.ladder import embedded, scans

LABELS = ("zero", "one", "two", "three")
DEVIATIONS = [16 + 8, 16 + 9]  # after the embedding, the means of eight channels come first


def in_order(rows):
    return rows[np.lexsort(rows.T)]


class Case:
    def __init__(self, kind="multiclass", count=300, augmentation="heavy", **fields):
        self.backbone = tiny()
        pixels, digits = scans(self.backbone, count)
        graph, views = PixelGraph(self.backbone), views_of(augmentation)
        with torch.no_grad():
            pooled = [graph(torch.from_numpy(flipped(pixels, view)))[-1].half().numpy() for view in views]
        self.maps = np.stack(pooled, axis=1)
        self.split = stages_of(self.maps.shape[2])
        # the root of how far two channels of the first stage deviate, of which the last says little
        deviations = self.maps[:, 0, DEVIATIONS].astype(np.float64)
        high = deviations > np.median(deviations, axis=0)
        targets, labels = {
            "multiclass": (digits.astype(np.int64), LABELS),
            "deviation": (high[:, 0].astype(np.int64), ("low", "high")),
            "multilabel": (high, ("one", "two")),
            "regression": (deviations[:, 0], ()),
        }[kind]
        kind = "multiclass" if kind == "deviation" else kind
        self.dataset = embedded(self.backbone, pixels, kind, targets, labels, **fields)

    def recipe(self, **options):
        return stages(
            self.dataset, self.maps, self.split, StagesOptions(**options), total_backbone_parameters=920
        )

    def fit(self, **options):
        return finish(explore(self.recipe(**options), report=lambda _: None), report=lambda _: None)


@pytest.mark.parametrize("kind", ["deviation", "multilabel", "regression"])
def test_what_earlier_stages_say_is_more_than_the_embedding_does(kind):
    case = Case(kind)
    found = case.fit().fit.metrics["primary"]
    head = fit_head(case.dataset, HeadOptions(), total_backbone_parameters=920, report=lambda _: None)
    gain = found["value"] - head.metrics["primary"]["value"]
    assert (gain if found["higher_is_better"] else -gain) > 0


def test_only_a_head_trains():
    tuned = Case().fit()
    assert tuned.parameters.trainable == 4 * (48 + 1)
    assert not list(tuned.network.parameters())
    assert (tuned.fit.decision["strategy"], tuned.fit.decision["blocks"]) == ("stages", [])


def test_the_head_is_the_optimum_over_every_view():
    """The gradient of the objective at it, by the views themselves: none of its weights would move."""
    case = Case(augmentation="light")
    tuned = case.fit(class_weight="none")
    rows = np.array([split != "test" for split in tuned.fit.splits])
    views = case.maps[rows].astype(np.float64)
    features, targets = views.reshape(-1, 48), np.repeat(case.dataset.targets[rows], 2)
    mean, scale = standardisation(features.astype(np.float32))
    scale = scale * np.sqrt(48)
    sure = tuned.fit.decision["start_sharpness"]
    weight, bias = tuned.fit.head.weight / sure, tuned.fit.head.bias / sure
    logits = features @ weight.T + bias
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    error = odds / odds.sum(axis=1, keepdims=True) - np.eye(4)[targets]
    standardised = (features - mean) / scale
    penalty = tuned.fit.decision["start_strength"] * weight * scale
    slope = error.T @ standardised + penalty
    assert np.abs(slope).max() < 1e-2 * np.abs(penalty).max()


def test_the_penalty_is_chosen_by_answers_as_they_will_be_given(monkeypatch):
    """Averaged over the flips, where they are."""
    case, seen = Case(), []

    def choose(dataset, parts, search, report):
        seen.append(np.concatenate([dataset.embeddings[held] for _, held in parts]))
        return 1.0

    monkeypatch.setattr("models.strategies.start._in_folds", choose)
    rows, held = np.arange(0, 200), np.arange(200, 300)
    for averaged in (False, True):
        attempt_on(case.recipe(average_flips=averaged), rows, held, Budget.of(None, None), lambda _: None)
    alone, mean = seen
    given = case.maps[rows].astype(np.float32)
    np.testing.assert_allclose(in_order(alone), in_order(given[:, 0]))
    np.testing.assert_allclose(in_order(mean), in_order(given.mean(axis=1)), rtol=1e-5, atol=1e-5)


def test_the_refit_chooses_its_penalty_by_all_that_it_is_fitted_on(monkeypatch):
    case, seen = Case(), []

    def choose(dataset, parts, search, report):
        seen.append(sum(len(held) for _, held in parts))
        return 1.0

    monkeypatch.setattr("models.strategies.start._in_folds", choose)
    tuned = case.fit()
    counts = tuned.fit.decision["split"]
    assert seen == [counts["train"], counts["train"] + counts["validation"]]


def test_no_fold_of_the_penalty_parts_what_belongs_together(monkeypatch):
    """Near duplicates on both sides would ask for a weaker penalty than new examples do."""
    pairs = tuple(f"part {row // 2}" for row in range(300))
    case, seen = Case(groups=pairs), []

    def choose(dataset, parts, search, report):
        seen.extend([{dataset.groups[row] for row in rows} for rows in part] for part in parts)
        return 1.0

    monkeypatch.setattr("models.strategies.start._in_folds", choose)
    case.fit()
    assert len(seen) == 2 * FOLDS
    assert not any(train & held for train, held in seen)


def test_the_choice_of_the_penalty_is_told_fold_by_fold():
    said = []
    explore(Case().recipe(), report=said.append)
    assert [each["candidate"] for each in said if "candidate" in each] == [1, 2, 3, 4, 5]


def test_more_features_than_memory_allows_are_fitted_on_fewer_views(monkeypatch):
    case = Case()
    whole = case.fit().fit.head
    monkeypatch.setattr("models.strategies.start.MOST_FEATURES", 300 * 48)
    fewer = case.fit().fit.head
    assert not np.array_equal(whole.weight, fewer.weight)


def test_the_same_arguments_give_the_same_head():
    one, again = Case().fit(), Case().fit()
    assert np.array_equal(one.fit.head.weight, again.fit.head.weight)
