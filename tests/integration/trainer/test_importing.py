"""service/trainer/importer.py on a real store and a real child: an archive's images become examples."""

import json
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from service.errors import StoreUnavailable, UnknownBlob, UnknownTask
from service.store.examples import Examples
from service.store.ids import new_id
from service.store.records import DEFAULT_TENANT
from service.store.sweeping import sweep
from service.trainer.importer import import_archive, scratch_file
from service.trainer.lease import Lease
from service.trainer.worker import work_on
from tests.integration.trainer.archives import tarred, zipped
from tests.integration.trainer.tasks import add, coloured, colours, new_task, queue_import, queue_training

TENANT = DEFAULT_TENANT
FOLDERS = {f"{label}/{n}.png": coloured(label, 10 * n) for label in ("red", "green") for n in range(3)}


def csv_of(rows):
    return "\n".join(["file_name,label,group,split", *rows]).encode()


def imported(bench, work, archive, kind="multiclass", **fields):
    """The task, and the run that has imported the archive into it."""
    task = new_task(bench.store, kind, **fields)
    queue_import(bench, task, archive, run_id="run_1")
    return task, work()


def examples_of(bench, task):
    return {each.filename: each for each in bench.store.examples.list(task, limit=500).data}


def items_of(bench, run):
    return bench.store.runs.items(run.id, limit=500).data


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_class_folders_become_labelled_examples_with_embeddings(bench, work, pack):
    task, run = imported(bench, work, pack(FOLDERS))
    assert run.state == "succeeded"
    assert run.result == {"created": 6, "duplicates": 0, "conflicts": 0, "failed": 0, "skipped": 0}
    examples = examples_of(bench, task)
    assert {name: each.labels for name, each in examples.items()} == {
        name: (name.split("/")[0],) for name in FOLDERS
    }
    assert examples["red/0.png"].media_type == "image/png"
    assert (examples["red/0.png"].width, examples["red/0.png"].height) == (40, 36)
    assert bench.store.blobs.get(examples["red/0.png"].blob_key) == FOLDERS["red/0.png"]
    assert not bench.store.embeddings.missing(task, bench.identity.digest, labelled_only=False, limit=9)


def test_an_imported_task_can_be_trained(bench, work):
    task, _ = imported(bench, work, zipped(FOLDERS))
    queue_training(bench, task)
    assert work().state == "succeeded"


def test_split_folders_in_a_top_folder_become_splits(bench, work):
    files = {
        f"data/{split}/red/{split}.png": coloured("red", n)
        for n, split in enumerate(["train", "validation", "test"])
    }
    task, _ = imported(bench, work, zipped(files))
    found = examples_of(bench, task).values()
    assert sorted((each.split, each.labels, each.split_by_user) for each in found) == [
        ("test", ("red",), True),
        ("train", ("red",), True),
        ("validation", ("red",), True),
    ]


def test_metadata_labels_groups_and_splits(bench, work):
    rows = ["a.png,red,g1,test", "b.png,green,g2,", "c.png,,,"]
    files = {name: coloured("red", n) for n, name in enumerate(["a.png", "b.png", "c.png"])}
    task, run = imported(bench, work, zipped({"metadata.csv": csv_of(rows)} | files))
    examples = examples_of(bench, task)
    assert run.result["created"] == 3
    assert (examples["a.png"].labels, examples["a.png"].group, examples["a.png"].split) == (
        ("red",),
        "g1",
        "test",
    )
    assert (examples["b.png"].labels, examples["b.png"].split) == (("green",), None)
    assert examples["c.png"].labelled is False


def test_multilabel_metadata_in_json_lines(bench, work):
    rows = [{"file_name": "a.png", "labels": ["red", "warm"]}, {"file_name": "b.png", "labels": []}]
    files = {"metadata.jsonl": "\n".join(map(json.dumps, rows)).encode()}
    files |= {"a.png": coloured("red", 1), "b.png": coloured("blue", 1)}
    task, _ = imported(bench, work, zipped(files), "multilabel")
    examples = examples_of(bench, task)
    assert (set(examples["a.png"].labels), examples["b.png"].labels) == ({"red", "warm"}, ())


def test_regression_values_from_metadata_and_from_folders(bench, work):
    files = {"metadata.csv": b"file_name,value\na.png,1.5\nb.png,nan\n", "a.png": coloured("red", 1)}
    task, run = imported(bench, work, zipped(files | {"b.png": coloured("red", 2)}), "regression")
    assert examples_of(bench, task)["a.png"].value == 1.5
    assert [item.error and item.error["code"] for item in items_of(bench, run)] == [None, "invalid_field"]
    other = new_task(bench.store, "regression", name="folders")
    queue_import(
        bench,
        other,
        zipped({"2.5/a.png": coloured("red", 3), "high/b.png": coloured("red", 4)}),
        run_id="run_2",
    )
    assert work().result == {"created": 1, "duplicates": 0, "conflicts": 0, "failed": 1, "skipped": 0}
    assert examples_of(bench, other)["2.5/a.png"].value == 2.5


def test_a_bad_file_never_fails_its_neighbours(bench, work):
    files = {
        "red/good.png": coloured("red", 1),
        "red/text.jpg": b"this is no image",
        "red/cut.png": coloured("red", 2)[:200],
        "red/empty.png": b"",
        "red/old.gif": b"GIF89a",
        "red/notes.txt": b"not looked at",
        "red/again.png": coloured("red", 1),
        "blue/good.png": coloured("red", 1),
        "pink/x.png": coloured("red", 3),
    }
    task, run = imported(bench, work, zipped(files), classes=("red", "blue"))
    assert run.state == "succeeded"
    assert run.result == {"created": 1, "duplicates": 1, "conflicts": 1, "failed": 5, "skipped": 1}
    fates = {item.filename: item.status or item.error["code"] for item in items_of(bench, run)}
    assert fates == {
        "red/good.png": "created",
        "red/text.jpg": "unsupported_image",
        "red/cut.png": "invalid_image",
        "red/empty.png": "invalid_image",
        "red/old.gif": "unsupported_image",
        "red/again.png": "duplicate",
        "blue/good.png": "conflict",
        "pink/x.png": "unknown_label",
    }
    assert len(examples_of(bench, task)) == 1


def test_bytes_that_no_example_refers_to_are_taken_back(bench, work, settings):
    imported(bench, work, zipped({"red/a.png": coloured("red", 1), "red/b.png": coloured("red", 1)}))
    assert len([path for path in (settings.data_dir / "blobs").rglob("images/*") if path.is_file()]) == 1


def test_metadata_and_files_that_do_not_match_are_named(bench, work):
    files = {"metadata.csv": csv_of(["a.png,red,,", "missing.png,red,,", "b.png,red,,trian"])}
    files |= {name: coloured("red", n) for n, name in enumerate(["a.png", "b.png", "stray.png"])}
    _, run = imported(bench, work, zipped(files))
    problems = {item.filename: item.error["detail"] for item in items_of(bench, run) if item.error}
    assert problems.keys() == {"missing.png", "b.png", "stray.png"}
    assert "trian" in problems["b.png"]


def bomb():
    return tarred({f"{n}.png": bytes(30 * 2**20) for n in range(3)})


@pytest.mark.parametrize(
    "archive",
    [
        b"",
        b"no archive at all",
        zipped({"red/a.png": coloured("red", 1)})[:-40],
        zipped({"red/a.png": coloured("red", 1), "../../x.png": b"x"}),
        tarred({"red/a.png": coloured("red", 1), "/etc/x.png": b"x"}),
        bomb(),
        zipped({}),
        zipped({"readme.txt": b"no image"}),
        zipped({"metadata.csv": b"\xff\xfe", "a.png": coloured("red", 1)}),
        zipped({"metadata.jsonl": b"[" * 100_000, "a.png": coloured("red", 1)}),
        zipped({"metadata.csv": b"file_name\n" + b"a\n" * 900_000, "a.png": coloured("red", 1)}),
        zipped({"red/a.png": b"no image", "red/b.png": b"none either"}),
    ],
    ids=[
        "empty",
        "text",
        "cut",
        "dotdot",
        "absolute",
        "bomb",
        "no-member",
        "no-image",
        "not-utf8",
        "brackets",
        "rows",
        "all-bad",
    ],
)
def test_a_hostile_or_useless_archive_fails_the_run_and_adds_nothing(bench, work, archive, settings):
    task, run = imported(bench, work, archive)
    assert (run.state, run.error["code"]) == ("failed", "invalid_archive")
    assert examples_of(bench, task) == {}
    assert not [path for path in (settings.data_dir / "blobs").rglob("*") if path.is_file()]


def test_the_archive_and_the_scratch_file_are_gone_in_the_end(bench, work):
    _, run = imported(bench, work, zipped(FOLDERS))
    with pytest.raises(UnknownBlob):
        bench.store.blobs.get(run.options["archive"])
    assert not list(Path(tempfile.gettempdir()).glob(f"polyhead-{run.id}-*"))


def test_a_scratch_file_is_new_and_its_owner_s_alone(bench, tmp_path):
    """In a folder where anybody may have put a link, and an attempt that was killed has left its own."""
    run = queue_import(bench, new_task(bench.store), b"", run_id=new_id("run"))
    folder, precious = Path(tempfile.gettempdir()), tmp_path / "precious"
    precious.write_bytes(b"mine")
    (folder / f"polyhead-{run.id}-0").symlink_to(precious)
    (folder / f"polyhead-{run.id}-left").write_bytes(b"half an archive")
    with scratch_file(run) as path:
        path.write_bytes(b"archive")
        assert oct(path.stat().st_mode & 0o777) == "0o600"
        assert list(folder.glob(f"polyhead-{run.id}-*")) == [path]
    assert not list(folder.glob(f"polyhead-{run.id}-*"))
    assert precious.read_bytes() == b"mine"


def test_an_import_that_is_given_up_takes_its_archive_along(bench):
    """Its trainers died, so that none of them could tidy up."""
    task = new_task(bench.store)
    key = queue_import(bench, task, zipped(FOLDERS), run_id="run_1").options["archive"]
    assert bench.store.runs.claim(0.01, 1) is not None
    time.sleep(0.05)
    assert bench.store.blobs.size(key) > 0
    assert bench.store.runs.claim(60, 1, ended=bench.store.discard_archive) is None
    assert bench.store.runs.get(TENANT, "run_1").state == "failed"
    with pytest.raises(UnknownBlob):
        bench.store.blobs.size(key)


@pytest.mark.parametrize("cancelled", [False, True])
def test_an_import_given_back_keeps_its_archive_unless_it_was_cancelled(bench, cancelled):
    task = new_task(bench.store)
    key = queue_import(bench, task, zipped(FOLDERS), run_id="run_1").options["archive"]
    run = bench.store.runs.claim(60, 3)
    stop = threading.Event()
    stop.set()
    if cancelled:
        bench.store.runs.cancel(TENANT, run.id)
    work_on(run, bench, stop)
    if not cancelled:
        assert bench.store.blobs.size(key) > 0
        return
    with pytest.raises(UnknownBlob):
        bench.store.blobs.size(key)


def test_an_import_goes_on_after_a_crash(bench, work):
    """What the first attempt added and recorded is neither read again nor called a duplicate."""
    task = new_task(bench.store)
    queue_import(bench, task, zipped(FOLDERS), run_id="run_1")
    first = bench.store.runs.claim(0.0, 3)
    with Lease(bench.store, first, lease_s=15, stop=threading.Event()) as lease:
        result = import_archive(first, bench, lease)
    assert result["created"] == 6
    run = work()
    assert (run.attempt, run.state) == (2, "succeeded")
    assert run.result == result


def test_an_import_that_crashed_between_rows_and_record_reports_duplicates(bench, work):
    task = new_task(bench.store)
    add(bench, task, colours(1))
    archive = zipped({f"{label}/a.png": data for data, said in colours(1) for label in said["labels"]})
    queue_import(bench, task, archive, run_id="run_1")
    assert work().result == {"created": 0, "duplicates": 3, "conflicts": 0, "failed": 0, "skipped": 0}


def test_a_cancelled_import_says_what_it_added(bench):
    """Cancelled within two seconds; what was added stays."""
    task = new_task(bench.store)
    files = {f"red/{n}.png": coloured("red", n) for n in range(5_000)}  # seconds of work
    queue_import(bench, task, zipped(files), run_id="run_1")
    run = bench.store.runs.claim(15, 3)
    thread = threading.Thread(target=work_on, args=(run, bench, threading.Event()))
    thread.start()
    while not bench.store.runs.items(run.id, limit=1).data:
        time.sleep(0.01)
    bench.store.runs.cancel(TENANT, run.id)
    start = time.monotonic()
    thread.join()
    ended = bench.store.runs.get(TENANT, run.id)
    assert time.monotonic() - start < 2
    assert ended.state == "cancelled"
    assert 0 < ended.result["created"] < 5_000
    summary = bench.store.tasks.summary(task, bench.identity.digest)
    assert summary.examples == ended.result["created"]


def test_a_task_deleted_while_it_is_filled_leaves_nothing(bench, settings):
    task = new_task(bench.store)
    queue_import(bench, task, zipped(FOLDERS), run_id="run_1")
    run = bench.store.runs.claim(15, 3)
    bench.store.tasks.delete(TENANT, task.name)
    work_on(run, bench, threading.Event())
    with pytest.raises(UnknownTask):
        bench.store.tasks.get(TENANT, task.name)
    for days in (0, 2):
        sweep(bench.store.database, bench.store.blobs, grace_s=86_400, now=time.time() + days * 86_400)
    assert not [path for path in (settings.data_dir / "blobs").rglob("*") if path.is_file()]


class Unheard(Examples):
    """Adds, and the word of it is lost on the way: as a connection that breaks at its commit."""

    def add(self, *args, **options):
        super().add(*args, **options)
        raise StoreUnavailable


def test_bytes_stay_where_it_is_not_known_whether_their_rows_are_there(bench):
    task = new_task(bench.store)
    queue_import(bench, task, zipped(FOLDERS), run_id="run_1")
    run = bench.store.runs.claim(0.0, 3)
    lossy = replace(bench.store, examples=Unheard(bench.store.database))
    work_on(run, replace(bench, store=lossy), threading.Event())
    added = bench.store.examples.for_training(task)
    assert len(added) == 6
    for example in added:
        assert bench.store.blobs.size(example.blob_key) == example.size
