"""Strategy auto through the trainer's child: rungs are tried, validation chooses, the record says why."""

import threading
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest

from models.strategies.climb import Climb, Tried
from models.strategies.options import AutoOptions
from service.trainer.climbing import Ascent, _Kept
from service.trainer.worker import work_on
from tests.integration.trainer.tasks import (
    add,
    add_slow,
    cancelled_when,
    colours,
    new_task,
    queue_training,
    spotted,
)


@pytest.fixture
def task(bench):
    task = new_task(bench.store)
    add(bench, task, colours(25))
    return task


def queue(bench, task, **options):
    return queue_training(bench, task, strategy="auto", options=asdict(AutoOptions(**options)))


def left_over(bench):
    folder = bench.settings.resolved_scratch_dir
    return list(folder.iterdir()) if folder.exists() else []


def record_of(bench, task, run):
    assert run.state == "succeeded", run.error
    version = bench.store.versions.get(task, run.version)
    return version, version.decision["auto"]


@pytest.mark.parametrize("domain", ["similar", "distant"])
def test_the_record_says_what_was_tried_and_why_it_was_kept(bench, work, task, domain):
    queue(bench, task, domain=domain, max_seconds=600)
    version, record = record_of(bench, task, work())
    assert version.strategy == "auto"
    assert record["domain"]["domain"] == domain
    assert record["rule"]["name"] == f"small_{domain}"
    rungs = {each["rung"]: each for each in record["candidates"]}
    assert set(rungs) == {"head", "stages", "last_block", "lora", "finetune"}
    assert all(each["why"] for each in rungs.values())
    tried = [each for each in rungs.values() if "validation" in each]
    assert [each["rung"] for each in tried][:3] == ["head", "stages", "last_block"]
    for each in tried:
        low, high = each["validation"]["interval"]
        assert low <= each["validation"]["score"] <= high
        assert each["validation"]["count"] == tried[0]["validation"]["count"]
    assert record["chosen"] in {each["rung"] for each in tried}
    assert "not tried" in rungs["finetune"]["why"]
    assert left_over(bench) == []


def test_what_is_served_is_what_was_chosen(bench, work):
    task = new_task(bench.store, name="spots")
    labels = ("plain", "spot")
    images = [(label, seed) for label in labels for seed in range(50)]
    add(bench, task, [(spotted(*each), {"labels": (each[0],)}) for each in images])
    queue(bench, task, domain="distant", max_seconds=600)
    version, record = record_of(bench, task, work())
    assert record["chosen"] == "stages"
    assert (version.decision["strategy"], version.backbone_output) == ("stages", "pooled")
    assert len(version.views) == 4


def test_a_head_that_is_always_right_is_served_although_others_were_tried(bench, work, task):
    queue(bench, task, domain="distant", max_seconds=600)
    version, record = record_of(bench, task, work())
    assert {each["rung"] for each in record["candidates"] if "validation" in each} > {"head", "stages"}
    assert record["chosen"] == "head"
    assert (version.decision["solver"], version.backbone_output) == ("exact", "embedding")


def ascent(**fields):
    needed = ("run", "bench", "lease", "phases", "snapshot", "dataset", "spread", "ends")
    return Ascent(**dict.fromkeys(needed) | fields)


def kept(rung, seconds):
    explored = SimpleNamespace(seconds=seconds)
    return _Kept(rung=rung, filling=None, dataset=None, explored=explored)


def ahead(*names):
    """A ladder on which the last of the names is the best."""
    ladder = Climb("regression", np.zeros(9), start=names[-1])
    for number, name in enumerate(names):
        scores = np.full((9, 1), 1.0 / (number + 1), np.float32)
        assert ladder.consider(Tried(name=name, options={}, scores=scores))
    return ladder


def test_the_whole_network_is_not_tried_where_a_tail_had_no_time():
    why = ascent(out_of_time="last_block")._why_not("finetune", ahead("head", "stages"), 500.0, None)
    assert why == "there was no time for last_block, which costs less"


@pytest.mark.parametrize(("left", "said"), [(299.0, "3 times as long"), (301.0, "")])
def test_the_whole_network_takes_longer_than_the_last_blocks(left, said):
    why = ascent()._why_not("finetune", ahead("head", "last_block"), left, kept("last_block", 100.0))
    assert said in why
    assert bool(why) == bool(said)


def test_what_a_frozen_rung_took_says_nothing_of_the_whole_network():
    assert not ascent()._why_not("finetune", ahead("head", "stages"), 299.0, kept("stages", 100.0))


def test_the_domain_is_measured_where_nothing_is_said(bench, work, task):
    """The tiny backbone has neither a pretraining classifier nor batch norms."""
    queue(bench, task, max_seconds=600)
    _, record = record_of(bench, task, work())
    assert (record["domain"]["measure"], record["domain"]["given"]) == ("none", False)
    assert record["rule"]["start"] == "head"


def test_test_examples_choose_nothing(bench, work):
    """Other labels on the test examples: the same choice, the same validation scores, another test score."""
    records, scores = [], []
    for name, test_label in (("right", "red"), ("wrong", "blue")):
        task = new_task(bench.store, name=name)
        images = colours(25, ("red", "blue"))
        tested = [(data, {"labels": (test_label,), "split": "test"}) for data, _ in colours(8, ("green",))]
        add(bench, task, [*images, *tested])
        queue(bench, task, domain="distant", max_seconds=600)
        version, record = record_of(bench, task, work())
        records.append(
            [(each["rung"], each.get("validation")) for each in record["candidates"]] + [record["chosen"]]
        )
        scores.append(version.metrics["accuracy"])
    assert records[0] == records[1]
    assert scores[0] != scores[1]


def test_a_budget_that_leaves_no_time_ends_with_a_head(bench, task):
    """Time is over before a second rung: the head is there all the same."""
    queue(bench, task, domain="distant", max_seconds=10)
    run = bench.store.runs.claim(60, 3)
    work_on(run, bench, threading.Event())
    version, record = record_of(bench, task, bench.store.runs.get(run.tenant, run.id))
    assert record["candidates"][0]["rung"] == "head"
    assert version.metrics["count"] > 0


def test_a_climb_is_cancelled_in_mid_rung_and_leaves_nothing(bench):
    task = new_task(bench.store, name="slow")
    add_slow(bench, task, 30)
    queued = queue(bench, task, domain="distant", max_seconds=6000)
    _, took = cancelled_when(bench, queued, lambda progress: progress.get("phase") == "mapping")
    assert took < 2
    assert left_over(bench) == []
    assert bench.store.versions.list(task, 10).data == []
