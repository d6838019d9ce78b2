"""Backups, restored and checked: of either pair of places, and from each to the other."""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from rich.console import Console

from service.backup.errors import BackupFailed, DamagedBackup
from service.backup.making import back_up
from service.backup.manifest import Manifest
from service.backup.place import BLOBS, Place
from service.backup.restoring import MARK, restore
from service.backup.rows import dump, tables_of
from service.backup.source import Source
from service.backup.verifying import verify_backup, verify_live
from service.store import Store, check_schema, migrate, open_store
from service.store.blobs import MULTIPART_FROM
from service.store.keys import factors_key, head_key, image_key, import_key, predictions_key
from service.store.records import PRODUCTION, Task
from service.store.references import references
from service.store.schema import known_revisions, newest
from tests.integration.store.values import BACKBONE, TENANT, new_example, new_run
from tests.stores import Pair

QUIET = Console(quiet=True)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def place(pair: Pair) -> Place:
    return Place.opened(pair.blobs(), new=True)


@pytest.fixture
def source(store: Store) -> Source:
    return Source(database=store.database, blobs=store.blobs)


@pytest.fixture
def empty(pair: Pair) -> Iterator[tuple[str, str]]:
    """URLs of a database and a place for blobs with nothing in them, not even tables."""
    with pair.database(migrated=False) as url:
        yield url, pair.blobs()


def upload(store: Store, task: Task, *names: str) -> list[str]:
    """Images as an upload makes them durable: bytes first, then the rows. Returns their keys."""
    items = []
    for name in names:
        data = name.encode() * 100
        key = image_key(task, sha256(data))
        store.blobs.put_new(key, data)
        items.append(
            new_example(
                name, f"class {len(name)}", blob_key=key, image_digest=sha256(data), size=len(data),
                embedding=os.urandom(5120), group="gruppe ü", filename=None,
            )
        )  # fmt: skip
    store.examples.add(task, items, backbone_digest=BACKBONE, now=2.5)
    return [item.blob_key for item in items]


@pytest.fixture
def filled(store: Store, task: Task, publish: Callable[..., int]) -> list[str]:
    """Something in every table that outlives a request. Returns: the keys of all blobs, sorted."""
    keys = upload(store, task, "a", "bb", "ccc")
    head, answers, factors = b"head" * 50, b"answers" * 50, b"factors" * 50
    files = {
        "head_key": head_key(task, sha256(head)),
        "predictions_key": predictions_key(task, sha256(answers)),
        "factors_key": factors_key(task, sha256(factors)),
    }
    for key, data in zip(files.values(), (head, answers, factors), strict=True):
        store.blobs.put_new(key, data)
    publish(task, head_digest=sha256(head), metrics={"nothing": None, "ü": [1.5, {"a": 0.1}]}, **files)
    store.aliases.put(task, "canary", 1, pinned=True, backbone_digest=BACKBONE, now=3.25)
    birds = store.tasks.create(TENANT, "birds", "multiclass", ["zwei", "eins"], now=1.0)
    archive = import_key(birds, "run_1")
    store.blobs.put_new(archive, b"archive" * (MULTIPART_FROM // 7 + 1))
    run = new_run(birds, kind="import", options={"archive": archive, "filename": None}, id="run_1")
    store.runs.create(TENANT, run, now=4.0)
    return sorted([*keys, *files.values(), archive])


def contents(store: Store) -> dict[str, list[object]]:
    """All rows of all tables."""
    with store.database.read() as connection:
        return {
            table.name: [
                tuple(row)
                for row in connection.execute(sa.select(table).order_by(*table.primary_key.columns))
            ]
            for table in tables_of(connection)
        }


def blobs_of(store: Store) -> dict[str, str]:
    return {each.key: sha256(store.blobs.get(each.key)) for each in store.blobs.list()}


def restored(place: Place, urls: tuple[str, str], backup: str | None = None) -> Store:
    restore(place, backup, *urls, QUIET)
    return open_store(*urls)


@pytest.mark.parametrize("other", ["one_machine", "cluster"])
def test_a_backup_restores_every_row_and_blob_into_either_pair(
    request: pytest.FixtureRequest, monkeypatch, store: Store, source, place, filled, other: str
) -> None:
    made = back_up(source, place, QUIET)
    assert (made.blobs, made.lacks, made.schema) == (len(filled), {}, newest())
    target: Pair = request.getfixturevalue(other)
    for name, value in target.environment.items():
        monkeypatch.setenv(name, value)
    with target.database(migrated=False) as url:
        again = restored(place, (url, target.blobs()))
        try:
            assert contents(again) == contents(store)
            assert blobs_of(again) == blobs_of(store)
            check_schema(again.database, exactly=True)
            assert sum(map(len, contents(again).values())) > 20
            # It goes on where it was: ids that the database counts, and what its triggers count.
            before = again.aliases.stamp()
            task = again.tasks.get(TENANT, "pets")
            upload(again, task, "a new class")
            again.aliases.put(task, PRODUCTION, 1, pinned=True, backbone_digest=BACKBONE, now=9.0)
            assert again.aliases.stamp() == before + 1
        finally:
            again.close()


def test_a_second_backup_copies_only_what_is_new(store, source, place: Place, task, filled, tmp_path) -> None:
    first = back_up(source, place, QUIET)
    there = {each.key: each.modified_at for each in place.blobs.list(BLOBS)}
    (new,) = upload(store, task, "dddd")
    second = back_up(source, place, QUIET)
    now = {each.key: each.modified_at for each in place.blobs.list(BLOBS)}
    assert now.items() >= there.items()
    assert now.keys() - there.keys() == {BLOBS + new}
    assert place.whole() == [first.id, second.id]
    for made, examples in ((first, 3), (second, 4)):
        url = f"sqlite:///{tmp_path}/{made.id}.db"
        again = restored(place, (url, (tmp_path / made.id).as_uri()), made.id)
        assert len(contents(again)["examples"]) == examples
        again.close()


def test_rows_are_kept_in_files_of_a_bounded_size(store, source, place: Place, task, empty) -> None:
    items = [new_example(f"{number}", "cat", embedding=os.urandom(5120)) for number in range(1500)]
    store.examples.add(task, items, backbone_digest=BACKBONE, now=1.0)
    made = back_up(source, place, QUIET)
    assert len([part for part in made.parts if part.table == "embeddings"]) > 1
    again = restored(place, empty)
    assert contents(again) == contents(store)
    again.close()


def test_a_backup_while_uploads_and_deletions_go_on_has_every_blob_that_its_rows_name(
    store, source, place: Place, task, filled, empty
) -> None:
    """Deleted ones, too, as long as a sweep leaves them; an archive goes at once, with its import."""
    stop = threading.Event()

    def change() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            upload(store, task, f"{number} a", f"{number} b")
            page = store.examples.list(task, limit=1)
            store.examples.delete(task, page.data[0].id)

    changing = threading.Thread(target=change)
    changing.start()
    try:
        made = [back_up(source, place, QUIET) for _ in range(4)]
    finally:
        stop.set()
        changing.join()
    assert made[0].blobs < made[-1].blobs
    for each in made:
        assert each.lacks == {}
        assert verify_backup(place, each.id, QUIET).lacks == {}
    again = restored(place, empty)
    found = verify_live(Source(database=again.database, blobs=again.blobs), QUIET)
    assert (found.blobs, found.lacks) == (made[-1].blobs, {})
    again.close()


def test_rows_are_read_again_where_a_blob_was_deleted_meanwhile(store, task, place: Place, filled) -> None:
    """An import ended while its archive was about to be copied: no run is kept that needs it."""
    archive = import_key(store.tasks.get(TENANT, "birds"), "run_1")
    blobs = store.blobs

    class EndsFirst:
        url = blobs.url

        def open_stream(self, key: str):
            if key == archive:
                store.runs.cancel(TENANT, "run_1")
                blobs.delete(archive)
            return blobs.open_stream(key)

    made = back_up(Source(database=store.database, blobs=EndsFirst()), place, QUIET)
    assert (made.blobs, made.lacks) == (len(filled) - 1, {})
    assert place.whole() == [made.id]
    assert all(made.id in each.key for each in place.blobs.list("backups/")), "the first rows are gone"


def test_lost_and_damaged_blobs_are_named_and_all_else_is_kept(store, source, place, filled, empty) -> None:
    lost, damaged, fine = filled[0], filled[1], filled[2:]
    store.blobs.delete(lost)
    store.blobs.delete(damaged)
    store.blobs.put_new(damaged, b"other bytes")
    store.blobs.put_new("tenants/default/tasks/task_0/images/x", b"nobody's")
    found = verify_live(source, QUIET)
    assert found.lacks.keys() == {lost, damaged}
    assert found.lacks[lost] == "is missing"
    assert "is damaged" in found.lacks[damaged]
    made = back_up(source, place, QUIET)
    assert made.lacks == found.lacks
    assert verify_backup(place, None, QUIET).lacks.keys() == {lost, damaged}
    again = restore(place, None, *empty, QUIET)
    assert again.lacks.keys() == {lost, damaged}
    kept = open_store(*empty)
    assert blobs_of(kept).keys() == set(fine)
    kept.close()


def test_a_check_counts_blobs_that_no_row_names(store: Store, source, filled) -> None:
    assert verify_live(source, QUIET).others == 0
    store.blobs.put_new("tenants/default/tasks/task_0/images/x", b"nobody's")
    found = verify_live(source, QUIET)
    assert (found.others, found.blobs, found.lacks) == (1, len(filled), {})


def test_a_damaged_blob_of_a_backup_is_found_and_not_restored(source, place: Place, filled, empty) -> None:
    back_up(source, place, QUIET)
    key = BLOBS + filled[0]
    place.blobs.delete(key)
    place.blobs.put_new(key, b"other bytes")
    assert verify_backup(place, None, QUIET).lacks.keys() == {filled[0]}
    assert restore(place, None, *empty, QUIET).lacks.keys() == {filled[0]}


@pytest.mark.parametrize("damage", ["cut short", "missing"])
def test_damaged_rows_are_refused_before_anything_is_written(
    source, place: Place, filled, empty, damage: str
) -> None:
    made = back_up(source, place, QUIET)
    key = next(part.key for part in made.parts if part.table == "examples")
    data = place.blobs.get(key)
    place.blobs.delete(key)
    if damage == "cut short":
        place.blobs.put_new(key, data[:-10])
    for attempt in (lambda: restore(place, None, *empty, QUIET), lambda: verify_backup(place, None, QUIET)):
        with pytest.raises(DamagedBackup, match="examples-0000"):
            attempt()
    assert {each.key for each in open_store(*empty).blobs.list()} <= {MARK}


def test_a_backup_without_its_manifest_is_none(source, place: Place, filled, empty) -> None:
    """As one that was interrupted leaves it; the next one goes on with its blobs, and takes its rows away."""
    with source.database.read() as connection:
        list(dump(connection, place, "20000101T000000-000000"))
    with pytest.raises(BackupFailed, match="no backup that was finished"):
        restore(place, None, *empty, QUIET)
    made = back_up(source, place, QUIET)
    assert place.whole() == [made.id]
    assert all(made.id in each.key for each in place.blobs.list("backups/"))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"format": 2}', b'{"format": 1, "parts": [{}]}'])
def test_a_manifest_that_cannot_be_read_is_said(data: bytes) -> None:
    with pytest.raises(DamagedBackup, match=r"manifest\.json"):
        Manifest.from_json(data, "backups/manifest.json")


def test_a_restore_goes_only_into_what_is_empty(
    store: Store, source, place, filled, empty, database_url: str, pair: Pair
) -> None:
    back_up(source, place, QUIET)
    before = contents(store)
    with pytest.raises(BackupFailed, match="the database isn't empty"):
        restore(place, None, database_url, pair.blobs(), QUIET)
    with pytest.raises(BackupFailed, match=f"{store.blobs.url} isn't empty"):
        restore(place, None, empty[0], store.blobs.url, QUIET)
    assert contents(store) == before
    with pytest.raises(BackupFailed, match="another"):
        restore(place, "another", *empty, QUIET)


def test_a_restore_into_tables_of_something_else_is_refused(source, place, filled, empty) -> None:
    back_up(source, place, QUIET)
    engine = sa.create_engine(empty[0])
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE theirs (id INTEGER)")
    engine.dispose()
    with pytest.raises(BackupFailed, match="tables that aren't Polyhead's"):
        restore(place, None, *empty, QUIET)


def test_an_interrupted_restore_goes_on_and_no_other_does(source, place, store, task, filled, empty) -> None:
    """Some blobs are there, and the rows aren't: what a kill leaves."""
    first = back_up(source, place, QUIET)
    upload(store, task, "dddd")
    second = back_up(source, place, QUIET)
    half = open_store(*empty)
    half.blobs.put_new(MARK, json.dumps({"backup": first.id}).encode())
    half.blobs.put_new(filled[0], store.blobs.get(filled[0]))
    half.close()
    with pytest.raises(BackupFailed, match="isn't empty"):
        restore(place, second.id, *empty, QUIET)
    again = restored(place, empty, first.id)
    assert blobs_of(again).keys() == set(filled)
    again.close()


def test_a_backup_of_an_earlier_release_is_restored_and_brought_up_to_date(
    store, source, place: Place, filled, empty, database_url: str
) -> None:
    made = back_up(source, place, QUIET)
    for revision in known_revisions()[1:4]:
        migrate(database_url, revision)
        with source.database.read() as connection:
            parts = tuple(part for part, _ in dump(connection, place, f"9{revision}"))
        old = Manifest(
            id=f"9{revision}", schema=revision, began_at="", finished_at="", parts=parts, blobs=made.blobs
        )
        place.finish(old)
    migrate(database_url)
    again = restored(place, empty)
    check_schema(again.database, exactly=True)
    assert contents(again)["examples"] == contents(store)["examples"]
    assert contents(again)["versions"] == contents(store)["versions"]
    again.close()


def test_a_backup_of_a_newer_release_is_refused(source, place: Place, filled, empty) -> None:
    made = back_up(source, place, QUIET)
    with source.database.read() as connection:
        parts = tuple(part for part, _ in dump(connection, place, "9newer"))
    place.finish(
        Manifest(id="9newer", schema="9999", began_at="", finished_at="", parts=parts, blobs=made.blobs)
    )
    with pytest.raises(BackupFailed, match="newer version"):
        restore(place, None, *empty, QUIET)


def test_a_folder_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"mine")
    with pytest.raises(BackupFailed, match="isn't empty"):
        Place.opened(str(tmp_path / "photos"), new=True)
    with pytest.raises(BackupFailed, match="holds no backups"):
        Place.opened(str(tmp_path / "photos"), new=False)
    with pytest.raises(BackupFailed, match="is no folder"):
        Place.opened(str(tmp_path / "none"), new=False)
    with pytest.raises(BackupFailed, match="can't use nosuch://x"):
        Place.opened("nosuch://x", new=True)


def test_every_kind_of_row_that_names_a_blob_is_known(store: Store, filled) -> None:
    with store.database.read() as connection:
        assert sorted(each.key for each in references(connection)) == filled
        assert [
            each.key.endswith("imports/run_1") for each in references(connection) if each.digest is None
        ] == [True]
