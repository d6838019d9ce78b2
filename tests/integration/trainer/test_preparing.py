"""service/preparing: what one backbone serves, trained on another beside it, compared and published."""

import threading
import time
from dataclasses import asdict

import pytest

from models.errors import BackboneError
from models.strategies.options import LastBlockOptions
from service.errors import UnknownAlias
from service.preparing.report import as_json, described_outcome, print_report
from service.preparing.run import PreparationFailed, PrepareOptions, prepare
from service.store.records import DEFAULT_TENANT, PRODUCTION, NewRun
from tests.integration.trainer.tasks import (
    HUES,
    add,
    coloured,
    colours,
    copied,
    new_task,
    picture,
    queue_training,
)

TWO = ("red", "green")
WIDE, BLIND = "tests.networks:wide", "tests.networks:blind"


@pytest.fixture
def served(bench, work):
    """A task of each kind in production on the tiny backbone; the first one has a photo without a label."""
    tasks = [new_task(bench.store)]
    add(bench, tasks[0], [*colours(22, TWO), (coloured("yellow", 5), {})])
    tasks.append(new_task(bench.store, "multilabel", name="tags"))
    both = [("warm",), ("warm", "dark"), (), ("dark",)]
    add(
        bench,
        tasks[1],
        [(labelled(labels, seed), {"labels": labels}) for labels in both for seed in range(6)],
    )
    tasks.append(new_task(bench.store, "regression", name="brightness"))
    values = [0.2 + 0.7 * number / 20 for number in range(20)]
    add(
        bench,
        tasks[2],
        [(picture(0.5, at, brightness=value), {"value": value}) for at, value in enumerate(values)],
    )
    for task in tasks:
        queue_training(bench, task)
        assert work().published
    return [bench.store.tasks.get_by_id(task.id) for task in tasks]


@pytest.fixture
def one(bench, work):
    """A task that is in production, of photos for which there is a test split."""
    task = new_task(bench.store)
    add(bench, task, colours(22, TWO))
    queue_training(bench, task)
    assert work().published
    return bench.store.tasks.get_by_id(task.id)


def labelled(labels, seed):
    hue = HUES["red"] if "warm" in labels else HUES["blue"]
    return picture(hue, 100 * len(labels) + seed, brightness=0.3 if "dark" in labels else 0.9)


def prepared(settings, name=WIDE, *, say=lambda line: None, stop=None, **options):
    new = settings.model_copy(update={"backbone": name})
    given = PrepareOptions(**{"tolerance": 0.3} | options)
    return prepare(settings, new, given, stop or threading.Event(), say)


def states(preparation):
    return {outcome.task: outcome.state for outcome in preparation.outcomes}


def versions_of(store, task):
    return [version.number for version in reversed(store.versions.list(task, limit=50).data)]


def behind(store, task, digest, alias=PRODUCTION):
    try:
        found = store.aliases.get(task, alias, digest)
    except UnknownAlias:
        return None
    return (found.version, found.pinned)


def test_every_kind_of_task_follows_and_the_old_backbone_s_servers_see_nothing(
    bench, settings, store, served, identity, capsys
):
    first = served[0]
    store.aliases.put(first, "steady", 1, pinned=True, backbone_digest=identity.digest, now=1.0)
    before = [store.aliases.list(task, identity.digest) for task in served]
    examples = {each.id: each.split for each in store.examples.for_training(first)}
    lines = []
    done = prepared(settings, say=lines.append)
    assert done.well
    assert states(done) == {"brightness": "published", "colours": "published", "tags": "published"}
    new = done.new.digest
    for task in served:
        assert behind(store, task, new) == (2, False)
        version = store.versions.get(task, 2)
        old = store.versions.get(task, 1)
        assert (version.backbone_digest, version.strategy, version.options, version.split_digest) == (
            new, old.strategy, old.options, old.split_digest
        )  # fmt: skip
        assert store.embeddings.count_missing(task, new) == 0  # the photo without a label has one too
    assert behind(store, first, new, "steady") == (2, True)
    assert [store.aliases.list(task, identity.digest) for task in served] == before
    assert {each.id: each.split for each in store.examples.for_training(first)} == examples
    assert any("embedding" in line for line in lines)

    metrics = {outcome.task: outcome.weighed.metric for outcome in done.outcomes}
    assert metrics == {"brightness": "rmse", "colours": "accuracy", "tags": "mean_average_precision"}
    (outcome,) = (outcome for outcome in done.outcomes if outcome.task == "colours")
    assert outcome.weighed.count == sum(split == "test" for split in examples.values()) > 0
    assert outcome.weighed.old.value == old_score(store, first, 1)
    assert outcome.weighed.new.value == old_score(store, first, 2)
    low, high = outcome.weighed.new.interval
    assert low <= outcome.weighed.new.value <= high
    print_report(done)
    said = capsys.readouterr().out
    assert f"They are started with POLYHEAD_BACKBONE={WIDE} POLYHEAD_PRECISION=fp32" in said
    assert "1 → 2" in said
    assert as_json(done)["new_backbone"] == {"name": "wide", "digest": new}

    again = prepared(settings)
    assert states(again) == states(done)
    assert [versions_of(store, task) for task in served] == [[1, 2]] * 3
    assert [outcome.moved for outcome in again.outcomes] == [()] * 3


def old_score(store, task, number):
    return store.versions.get(task, number).metrics["primary"]["value"]


def test_a_version_below_tolerance_is_named_and_not_published(settings, store, one, capsys):
    done = prepared(settings, BLIND)
    assert not done.well
    assert states(done) == {"colours": "below"}
    assert behind(store, one, done.new.digest) is None
    assert "below tolerance: version 2 is not published; accuracy" in described_outcome(done.outcomes[0])
    print_report(done)
    assert "a version for 0 of 1" in capsys.readouterr().out

    bold = prepared(settings, BLIND, tolerance=1.0)  # another judgement needs no other training
    assert states(bold) == {"colours": "published"}
    assert versions_of(store, one) == [1, 2]
    assert behind(store, one, done.new.digest) == (2, False)


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(settings, store, one):
    planned = prepared(settings, dry_run=True)
    assert planned.well
    assert (states(planned), planned.outcomes[0].missing) == ({"colours": "to_train"}, 44)
    assert versions_of(store, one) == [1]
    assert store.embeddings.count_missing(one, planned.new.digest) == 44
    assert len(store.runs.list(DEFAULT_TENANT, limit=9).data) == 1


def test_tasks_that_can_not_be_trained_are_named_and_the_others_are_done(settings, store, served, capsys):
    colours_, tags, _ = served
    lost = store.examples.for_training(colours_)[0]
    store.blobs.delete(lost.blob_key)
    for example in store.examples.for_training(tags):
        store.examples.delete(tags, example.id)
    done = prepared(settings)
    assert not done.well
    assert states(done) == {"brightness": "published", "colours": "failed", "tags": "failed"}
    reasons = {outcome.task: outcome.reason for outcome in done.outcomes}
    assert reasons["colours"] == f"the image of example {lost.id} is lost: delete the example"
    assert "no labelled examples" in reasons["tags"]
    assert [versions_of(store, task) for task in (colours_, tags)] == [[1], [1]]
    assert not any(
        run.state in ("queued", "running") for run in store.runs.list(DEFAULT_TENANT, limit=9).data
    )


def test_a_user_s_run_is_waited_for_and_what_it_publishes_is_prepared(bench, settings, store, one, work):
    theirs = queue_training(bench, one, publish="always", options={"seed": 3})
    waiting = threading.Event()

    def say(line):
        if theirs.id in line:
            waiting.set()

    found = []
    preparing = threading.Thread(target=lambda: found.append(prepared(settings, say=say)))
    preparing.start()
    assert waiting.wait(60)
    assert work().version == 2
    preparing.join(120)
    (done,) = found
    assert [(outcome.old_version, outcome.state) for outcome in done.outcomes] == [(2, "published")]
    version = store.versions.get(one, behind(store, one, done.new.digest)[0])
    assert version.options == {"seed": 3}


def test_what_the_new_servers_users_have_published_stays_until_the_old_pointer_moves(
    settings, store, one, identity
):
    new = prepared(settings).new.digest
    trained = store.runs.create(
        DEFAULT_TENANT,
        NewRun(
            task_id=one.id,
            kind="train",
            strategy="head",
            options={"seed": 9},
            publish="never",
            backbone_digest=new,
        ),
        now=time.time(),
    )
    run = store.runs.claim(60, 3, backbone_digest=new)
    assert run.id == trained.id
    version = copied(store.versions.get(one, 2), options={"seed": 9})
    theirs = store.runs.publish(run.id, run.attempt, version, publish=True, reason="better")
    assert states(prepared(settings)) == {"colours": "kept"}
    assert behind(store, one, new) == (theirs, False)

    store.aliases.put(one, PRODUCTION, 1, pinned=True, backbone_digest=identity.digest, now=1.0)
    assert states(prepared(settings)) == {"colours": "published"}
    assert behind(store, one, new) == (2, True)
    assert versions_of(store, one) == [1, 2, theirs]


def test_an_interrupted_preparation_leaves_nothing_active_and_goes_on(settings, store, served):
    stop = threading.Event()

    def say(line):
        if "colours version 1:" in line:  # brightness is done by then
            stop.set()

    first = prepared(settings, say=say, stop=stop)
    assert first.interrupted
    assert not first.well
    assert states(first) == {"brightness": "published"}
    runs = store.runs.list(DEFAULT_TENANT, limit=20).data
    assert not any(run.state in ("queued", "running") for run in runs)
    second = prepared(settings)
    assert second.well
    assert [max(versions_of(store, task)) for task in (served[2], served[1])] == [2, 2]
    assert store.versions.list(served[2], limit=9).data[0].number == 2


def test_the_run_of_a_killed_preparation_is_taken_over(settings, store, one):
    planned = prepared(settings, dry_run=True)
    old = store.versions.get(one, 1)
    begun = NewRun(
        task_id=one.id,
        kind="train",
        strategy=old.strategy,
        options=old.options,
        publish="never",
        backbone_digest=planned.new.digest,
    )
    run = store.runs.create(DEFAULT_TENANT, begun, now=time.time())
    store.runs.claim(0.5, 3, backbone_digest=planned.new.digest)  # by whom was killed then
    done = prepared(settings)
    assert done.well
    ended = store.runs.get(DEFAULT_TENANT, run.id)
    assert (ended.state, ended.attempt, ended.version) == ("succeeded", 2, 2)
    assert versions_of(store, one) == [1, 2]


def test_a_recipe_of_trained_blocks_follows_as_it_was_recorded(bench, settings, store, work):
    task = new_task(bench.store)
    add(bench, task, colours(6, TWO))
    recipe = asdict(LastBlockOptions(epochs=2, augmentation="none", seed=4))
    queue_training(bench, task, strategy="last_block", options=recipe)
    assert work().published
    done = prepared(settings, tolerance=1.0)
    assert states(done) == {"colours": "published"}
    version = store.versions.get(task, 2)
    assert (version.strategy, version.options, version.backbone_output) == ("last_block", recipe, "stem")
    assert version.backbone_digest == done.new.digest


def test_one_task_of_many_can_be_prepared_alone(settings, store, served):
    done = prepared(settings, tasks=("tags",))
    assert states(done) == {"tags": "published"}
    assert [versions_of(store, task) for task in served] == [[1], [1, 2], [1]]


def test_what_can_not_be_prepared_at_all_is_one_line(settings, store, one, tmp_path):
    with pytest.raises(BackboneError, match="no_such_network"):
        prepared(settings, "no_such_network")
    with pytest.raises(PreparationFailed, match="tiny with these settings is the backbone that is served"):
        prepared(settings, settings.backbone)
    with pytest.raises(PreparationFailed, match="nothing is published on tiny: nosuch"):
        prepared(settings, tasks=("colours", "nosuch"))
    with pytest.raises(PreparationFailed, match="nothing is published of tenant acme on tiny: no task"):
        prepared(settings, tenant="acme")
    with pytest.raises(
        PreparationFailed, match=r"nothing is published on wide .* other backbones: \w{12} of 1"
    ):
        prepared(settings.model_copy(update={"backbone": WIDE}), settings.backbone)
    with pytest.raises(PreparationFailed, match="there is no database"):
        prepared(settings.model_copy(update={"data_dir": tmp_path / "elsewhere"}))
    assert not (tmp_path / "elsewhere").exists()
