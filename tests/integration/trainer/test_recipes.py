"""service/preparing with every kind of recipe: what follows to another backbone, and what can't and why."""

import threading
from dataclasses import asdict

import pytest

from models.strategies.options import (
    AdamHeadOptions,
    AutoOptions,
    FinetuneOptions,
    LastBlockOptions,
    LoraOptions,
    StagesOptions,
)
from service.preparing.run import PrepareOptions, prepare
from service.settings import Settings
from service.trainer.jobs import IDENTIFY, BackboneJob
from service.trainer.workbench import Workbench
from tests.integration.trainer.tasks import add, colours, copied, new_task, picture, queue_training

pytest.importorskip("peft")

DEEP, POINTWISE = "tests.networks:deep", "tests.networks:pointwise"
TWO = ("red", "green")
SHORT = {"epochs": 1, "warmup_epochs": 0, "batch_size": 32}


@pytest.fixture
def settings(tmp_path, cache_dir):
    """Of the backbone that is served: two of its blocks can be trained, or a rank that others don't take."""
    return Settings(data_dir=tmp_path / "data", cache_dir=cache_dir, backbone=DEEP, poll_s=0.05)


@pytest.fixture
def bench(settings, store, child):
    job = BackboneJob(config=settings.backbone_config, cache_dir=settings.cache_dir)
    identity = child.call(IDENTIFY, job, report=lambda _: None, check=lambda: None)
    return Workbench(settings=settings, store=store, child=child, backbone=job, identity=identity)


@pytest.fixture
def record(bench, work):
    """A task in production, of a head; the recipe that is recorded of it may be another."""

    def record(name, **changed):
        task = new_task(bench.store, name=name)
        add(bench, task, colours(8, TWO))
        queue_training(bench, task, publish="never")
        version = bench.store.versions.get(task, work().version)
        queue_training(bench, task)
        run = bench.store.runs.claim(60, 3)
        bench.store.runs.publish(
            run.id, run.attempt, copied(version, **changed), publish=True, reason="told to"
        )
        return task

    return record


def prepared(settings, name, **options):
    new = settings.model_copy(update={"backbone": name})
    return prepare(settings, new, PrepareOptions(tolerance=1.0, **options), threading.Event(), lambda _: None)


def images_of(kind):
    """24 photos, with what is said of them."""
    if kind == "multiclass":
        return colours(12, TWO)
    if kind == "regression":
        return [
            (picture(0.5, seed, brightness=0.2 + 0.03 * seed), {"value": float(seed)}) for seed in range(24)
        ]
    both = [("warm",), ("warm", "dark"), (), ("dark",)] * 6
    return [
        (
            picture(0.0 if "warm" in labels else 0.66, seed, brightness=0.3 if "dark" in labels else 0.9),
            {"labels": labels},
        )
        for seed, labels in enumerate(both)
    ]


RECIPES = {
    "auto": ("multiclass", AutoOptions(max_seconds=10)),
    "finetune": ("regression", FinetuneOptions(input_size=48, **SHORT)),
    "head": ("multilabel", AdamHeadOptions(hidden=12, epochs=5)),
    "lora": ("multilabel", LoraOptions(rank=2, **SHORT)),
    "stages": ("regression", StagesOptions(average_flips=True)),
}


def test_recipes_of_all_strategies_follow_as_they_were_recorded(bench, settings, store, work):
    for strategy, (kind, options) in RECIPES.items():
        task = new_task(store, kind, name=strategy)
        add(bench, task, images_of(kind))
        queue_training(bench, task, strategy=strategy, options=asdict(options))
        assert work().published
    done = prepared(settings, POINTWISE)
    assert {outcome.task: outcome.state for outcome in done.outcomes} == dict.fromkeys(RECIPES, "published")
    for outcome in done.outcomes:
        task = store.tasks.get(outcome.tenant, outcome.task)
        old, new = (store.versions.get(task, number) for number in (1, 2))
        assert new.backbone_digest == done.new.digest
        for field in ("strategy", "options", "split_digest", "shares_backbone", "input_size", "views"):
            assert getattr(new, field) == getattr(old, field), (outcome.task, field)
        assert outcome.weighed.count == 24


def test_a_recipe_that_the_new_backbone_can_not_follow_is_named_and_the_others_are_done(
    settings, store, record
):
    """By the dry run too."""
    record("fits")
    record("rank", strategy="lora", options=asdict(LoraOptions(rank=6)))
    record("blocks", strategy="last_block", options=asdict(LastBlockOptions(blocks=2)))
    record("option", options={"seed": 0, "nosuch": 3})
    record("strategy", strategy="retired")
    why = {
        "rank": "option rank must be at most 3: more would train 1 % of the backbone's parameters or more",
        "blocks": "option blocks must be between 1 and 1 for backbone pointwise",
        "option": "strategy head with solver exact has no option nosuch",
        "strategy": "there is no strategy 'retired', only head, stages, last_block, lora, finetune, auto",
    }
    check(settings, store, POINTWISE, why)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "tests.networks:rigid",
            dict.fromkeys(
                ("stages", "last-block", "lora"), "backbone rigid has no tail of its own to train: "
            )
            | {"finetune": "option input_size of 48 can't be used: backbone rigid: it can't be run on 48 px"},
        ),
        ("tests.networks:tiny", {"lora": "backbone tiny has no tail of its own to train: "}),
    ],
    ids=["no-stages-and-one-size", "nothing-to-adapt"],
)
def test_a_recipe_that_another_family_of_backbones_has_not_is_named(settings, store, record, name, said):
    options = {
        "stages": StagesOptions(),
        "last-block": LastBlockOptions(),
        "lora": LoraOptions(rank=2),
        "finetune": FinetuneOptions(input_size=48),
    }
    record("fits")
    for each in said:
        record(each, strategy=each.replace("-", "_"), options=asdict(options[each]))
    check(settings, store, name, said)


def check(settings, store, name, why):
    """All but the task `fits` fail, and this is said of them."""
    planned, done = prepared(settings, name, dry_run=True), prepared(settings, name)
    assert {each.task: each.state for each in planned.outcomes} == dict.fromkeys(why, "failed") | {
        "fits": "to_train"
    }
    assert {each.task: each.state for each in done.outcomes} == dict.fromkeys(why, "failed") | {
        "fits": "published"
    }
    for outcome in (*planned.outcomes, *done.outcomes):
        if outcome.task in why:
            assert outcome.reason.startswith(why[outcome.task])
            assert "\n" not in outcome.reason
    runs = store.runs.list("default", limit=50).data
    assert not any(run.state in ("queued", "running") for run in runs)


def test_a_version_that_can_not_be_weighed_harms_no_other(settings, store, record):
    """What it answered is damaged, or doesn't fit its classes, which nobody foresaw."""
    record("fits")
    damaged = record("damaged")
    key = store.versions.get(damaged, 2).predictions_key
    store.blobs.delete(key)
    store.blobs.put_new(key, b"no answers")
    record("strange", labels=("red", "blue", "green"))
    done = prepared(settings, POINTWISE)
    states = {each.task: each.state for each in done.outcomes}
    assert states == {"damaged": "failed", "fits": "published", "strange": "failed"}
    why = {each.task: each.reason for each in done.outcomes}
    assert why["damaged"] == "what version 2 answered when it was evaluated is lost or damaged"
    assert why["strange"] == "it failed inside the service; the log says why"
