import math
import subprocess
import sys

import pytest

from models.errors import InvalidOption
from models.strategies.options import (
    AdamHeadOptions,
    AutoOptions,
    FinetuneOptions,
    HeadOptions,
    LastBlockOptions,
    LoraOptions,
    kind_of,
)

NETWORKS = (LastBlockOptions, FinetuneOptions, LoraOptions)
ALL = (HeadOptions, AdamHeadOptions, *NETWORKS)


@pytest.mark.parametrize("options", ALL)
def test_no_option_is_needed(options):
    assert options().seed == 0


@pytest.mark.parametrize("options", NETWORKS)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lr", math.nan),
        ("lr", math.inf),
        ("lr", 0.0),
        ("lr", "fast"),
        ("lr", True),
        ("epochs", -1),
        ("epochs", 1.5),
        ("batch_size", 0),
        ("weight_decay", -0.1),
        ("label_smoothing", 1.0),
        ("augmentation", "wild"),
        ("schedule", None),
        ("batch_norm", "off"),
        ("average_flips", 1),
        ("max_seconds", 0.5),
        ("decay", 101.0),
        ("seed", -1),
        ("patience", 0),
    ],
)
def test_a_bad_option_is_refused_by_name(options, field, value):
    with pytest.raises(InvalidOption, match=f"option {field} must be") as caught:
        options(**{field: value})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        (HeadOptions, "l2", 0.0),
        (HeadOptions, "l2", math.nan),
        (HeadOptions, "seed", None),
        (HeadOptions, "solver", "adam"),
        (HeadOptions, "class_weight", "even"),
        (AdamHeadOptions, "hidden", 0),
        (AdamHeadOptions, "hidden", 1.5),
        (AdamHeadOptions, "lr", math.inf),
        (AdamHeadOptions, "epochs", -1),
        (AdamHeadOptions, "max_seconds", 0.5),
        (AdamHeadOptions, "schedule", "linear"),
        (LastBlockOptions, "blocks", 0),
        (LastBlockOptions, "blocks", None),
        (FinetuneOptions, "unfreeze_every", 0),
        (FinetuneOptions, "unfreeze_every", 0.5),
        (FinetuneOptions, "single_lr", "yes"),
        (FinetuneOptions, "head_start", "zero"),
        (LoraOptions, "rank", 0),
        (LoraOptions, "alpha", math.nan),
        (LoraOptions, "monitor", "ends"),
        (LoraOptions, "monitor", None),
        (LastBlockOptions, "monitor", ("score", "end")),
    ],
)
def test_a_strategys_own_options_are_checked_too(options, field, value):
    with pytest.raises(InvalidOption, match=f"option {field} must be"):
        options(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_seconds", 9.99),
        ("max_seconds", -1),
        ("max_seconds", math.nan),
        ("max_seconds", math.inf),
        ("max_seconds", None),
        ("max_seconds", True),
        ("domain", "near"),
        ("domain", None),
        ("seed", 0.5),
    ],
)
def test_bad_options_of_auto_are_refused_by_name(field, value):
    with pytest.raises(InvalidOption, match=f"option {field} must be") as caught:
        AutoOptions(**{field: value})
    assert caught.value.field == field


def test_auto_measures_the_domain_and_has_ten_minutes_unless_told_otherwise():
    assert AutoOptions() == AutoOptions(seed=0, domain="auto", max_seconds=600)
    assert AutoOptions(max_seconds=10).max_seconds == 10


def test_whole_numbers_do_for_fractions_and_none_where_it_means_something():
    assert LastBlockOptions(lr=1, max_seconds=None).lr == 1
    assert FinetuneOptions(unfreeze_every=None).unfreeze_every is None


def test_a_heads_options_are_its_solvers_and_hidden_units_imply_adam():
    assert kind_of("head", {}) is HeadOptions
    assert kind_of("head", {"solver": "adam"}) is AdamHeadOptions
    assert kind_of("head", {"hidden": 8}) is AdamHeadOptions
    assert kind_of("last_block", {"hidden": 8}) is LastBlockOptions
    with pytest.raises(InvalidOption, match="option hidden needs solver adam"):
        kind_of("head", {"hidden": 8, "solver": "exact"})
    with pytest.raises(InvalidOption, match="option solver must be one of exact, adam"):
        kind_of("head", {"solver": None})


def test_the_http_process_can_check_options_without_numerical_libraries():
    code = "import models.strategies.options, sys; print({'torch', 'numpy', 'sklearn'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"
