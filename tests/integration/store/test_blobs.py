import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.errors import StoreUnavailable, UnknownBlob
from service.store.blobs import MULTIPART_FROM, Blobs, Folder, flush
from service.store.keys import head_key, image_key, import_key, predictions_key, task_prefix
from service.store.records import Task
from tests.stores import Pair, on_a_cluster

KEY = "tenants/default/tasks/task_1/images/abc-1"


@pytest.fixture
def blobs(blob_url: str) -> Blobs:
    return Blobs(blob_url)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "a folder" / "blobs"


@pytest.fixture
def folder(root: Path) -> Blobs:
    """Blobs of which the files are looked at."""
    return Blobs(root.as_uri())


def test_bytes_come_back(blobs: Blobs) -> None:
    blobs.put_new(KEY, b"pixels\0")
    assert blobs.get(KEY) == b"pixels\0"
    assert blobs.size(KEY) == 7


def test_a_user_s_files_are_where_they_are_expected(folder: Blobs, root: Path) -> None:
    folder.put_new(KEY, b"pixels\0")
    assert (root / KEY).read_bytes() == b"pixels\0"


def test_a_new_folder_is_its_owner_s_alone(folder: Blobs, root: Path) -> None:
    """What is inside needs no mode of its own."""
    folder.put_new(KEY, b"pixels")
    assert oct(root.stat().st_mode & 0o777) == "0o700"


def test_the_same_bytes_again_are_fine(blobs: Blobs) -> None:
    blobs.put_new(KEY, b"pixels")
    blobs.put_new(KEY, b"pixels")
    assert blobs.get(KEY) == b"pixels"


def test_a_file_that_is_there_is_not_written_again(folder: Blobs, root: Path) -> None:
    folder.put_new(KEY, b"pixels")
    inode = (root / KEY).stat().st_ino
    folder.put_new(KEY, b"pixels")
    assert (root / KEY).stat().st_ino == inode


def test_the_remains_of_a_put_that_lost_power_are_replaced(folder: Blobs, root: Path) -> None:
    """A file that was linked and never flushed may be empty afterwards."""
    (root / KEY).parent.mkdir(parents=True)
    (root / KEY).touch()
    folder.put_new(KEY, b"pixels")
    assert folder.get(KEY) == b"pixels"


def test_many_puts_of_one_key_at_once_agree(blobs: Blobs) -> None:
    data = os.urandom(200_000)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: blobs.put_new(KEY, data), range(16)))
    assert blobs.get(KEY) == data


def test_a_missing_blob_is_unknown(blobs: Blobs) -> None:
    for attempt in (blobs.get, blobs.size, blobs.open_stream):
        with pytest.raises(UnknownBlob):
            attempt(KEY)
    blobs.delete(KEY)


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../b", "a//b", "a b", "a#1", ".hidden", "ü"])
def test_a_key_that_is_none_of_ours_is_a_mistake(blobs: Blobs, key: str) -> None:
    for attempt in (blobs.get, blobs.delete, lambda key: blobs.put_new(key, b"x")):
        with pytest.raises(ValueError, match="no key"):
            attempt(key)


def test_a_file_is_stored_in_parts_and_streamed(blobs: Blobs, tmp_path: Path) -> None:
    archive = tmp_path / "archive.zip"
    archive.write_bytes(os.urandom(MULTIPART_FROM + 12_345))
    blobs.put_new(KEY, archive)
    stream = blobs.open_stream(KEY)
    chunks = list(stream.chunks)
    assert stream.size == archive.stat().st_size == sum(len(chunk) for chunk in chunks)
    assert len(chunks) > 2
    assert hashlib.sha256(b"".join(chunks)).digest() == hashlib.sha256(archive.read_bytes()).digest()


def test_a_small_file_is_stored_too(blobs: Blobs, tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"")
    blobs.put_new(KEY, tmp_path / "small")
    assert blobs.get(KEY) == b""
    assert list(blobs.open_stream(KEY).chunks) == []


def test_a_prefix_is_swept_and_its_neighbours_stay(blobs: Blobs) -> None:
    for task in ("task_1", "task_10", "task_2"):
        for image in ("a", "b"):
            blobs.put_new(f"tenants/default/tasks/{task}/images/{image}", b"x")
    blobs.delete_prefix("tenants/default/tasks/task_1/")
    for image in ("a", "b"):
        with pytest.raises(UnknownBlob):
            blobs.get(f"tenants/default/tasks/task_1/images/{image}")
        for task in ("task_10", "task_2"):
            assert blobs.get(f"tenants/default/tasks/{task}/images/{image}") == b"x"
    blobs.delete_prefix("tenants/default/tasks/task_1/")
    blobs.put_new("tenants/default/tasks/task_1/images/a", b"again")
    assert blobs.get("tenants/default/tasks/task_1/images/a") == b"again"
    with pytest.raises(ValueError, match="beginnings"):
        blobs.delete_prefix("tenants/default/tasks/task_1")


def test_a_swept_folder_is_gone_with_the_halves_of_interrupted_puts(folder: Blobs, root: Path) -> None:
    for task in ("task_1", "task_10"):
        folder.put_new(f"tasks/{task}/images/a", b"x")
    (root / "tasks/task_1/images/c#1").write_bytes(b"half")
    folder.delete_prefix("tasks/task_1/")
    assert [path.name for path in (root / "tasks").iterdir()] == ["task_10"]


def test_keys_are_of_one_task_and_uploads_never_share_one(task: Task) -> None:
    """A deletion of one upload must not take the bytes of another away."""
    digest = "a" * 64
    first, second = image_key(task, digest), image_key(task, digest)
    assert first != second
    keys = [first, head_key(task, digest), predictions_key(task, digest), import_key(task, "run_1")]
    assert all(key.startswith(task_prefix(task.tenant, task.id)) for key in keys)
    assert all(digest in key for key in keys[:3])


def test_a_file_is_flushed_with_the_folders_that_lead_to_it(tmp_path: Path) -> None:
    """What has returned survives a loss of power, even the first of a new task."""
    flushed: list[str] = []

    def seen(path: Path) -> None:
        flushed.append(str(path.relative_to(tmp_path)) if path.is_relative_to(tmp_path) else "outside")
        flush(path)

    folder = Folder(tmp_path / "data" / "blobs", seen)
    assert flushed[:2] == ["data", "."], "the root's own way"
    flushed.clear()
    images = folder.root / "task" / "images"
    images.mkdir(parents=True)
    for name in ("a", "b"):
        (images / name).touch()
        folder.sync(f"task/images/{name}")
    first, second = flushed[:4], flushed[4:]
    assert first[0] == "data/blobs/task/images/a"
    assert set(first[1:]) == {"data/blobs/task/images", "data/blobs/task", "data/blobs"}
    assert second == ["data/blobs/task/images/b", "data/blobs/task/images"]


def test_a_full_disk_is_said_and_leaves_nothing_under_the_key(root: Path) -> None:
    """The system refuses to write beyond a limit of this process, as a full disk does."""
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from service.errors import StoreFull, UnknownBlob; from service.store.blobs import Blobs\n"
        "blobs = Blobs(sys.argv[1]); big = Path(sys.argv[2])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "for data in (bytes(100_000), big):\n"
        "    try: blobs.put_new('images/a', data)\n"
        "    except StoreFull as error: print(error)\n"
        "    try: blobs.get('images/a')\n"
        "    except UnknownBlob: print('nothing there')\n"
        "blobs.put_new('images/a', b'small'); print(blobs.get('images/a'))\n"
    )
    big = root.parent.parent / "big"
    big.write_bytes(bytes(MULTIPART_FROM + 1))
    done = subprocess.run(
        [sys.executable, "-c", program, root.as_uri(), big], capture_output=True, text=True, check=True
    )
    full = ["the store has no space left; nothing was changed", "nothing there"]
    assert done.stdout.split("\n")[:-1] == [*full, *full, "b'small'"]
    assert [path.name for path in (root / "images").iterdir()] == ["a"], "no halves are left"


def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable):
        Blobs((tmp_path / "file" / "blobs").as_uri())


def test_a_folder_that_cannot_be_written_is_unavailable(folder: Blobs, root: Path) -> None:
    (root / "images").write_bytes(b"a file where a folder should be")
    with pytest.raises(StoreUnavailable):
        folder.put_new("images/a", b"x")


def test_an_object_store_out_of_reach_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that nobody listens on; retries end within seconds."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    blobs = Blobs("s3://bucket/prefix")
    for attempt in (blobs.ping, lambda: blobs.get(KEY), lambda: blobs.put_new(KEY, b"x")):
        with pytest.raises(StoreUnavailable):
            attempt()


def test_a_ping_answers(blobs: Blobs) -> None:
    blobs.ping()


@on_a_cluster
def test_a_bucket_that_is_not_there_is_unavailable(pair: Pair) -> None:
    """The operator's mistake, never the user's: the server calls both not found."""
    blobs = Blobs("s3://no-such-bucket/prefix")
    put, swept = (lambda: blobs.put_new(KEY, b"x")), (lambda: blobs.delete_prefix("tasks/"))
    for attempt in (blobs.ping, put, lambda: blobs.get(KEY), swept):
        with pytest.raises(StoreUnavailable):
            attempt()


@on_a_cluster
def test_a_wrong_key_to_the_bucket_is_unavailable(
    blob_url: str, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    blobs = Blobs(blob_url)
    for attempt in (blobs.ping, lambda: blobs.get(KEY), lambda: blobs.put_new(KEY, b"x")):
        with pytest.raises(StoreUnavailable):
            attempt()
