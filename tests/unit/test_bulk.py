"""bulk-embed without Ray: listing, cutting into parts, what an actor writes, and what is refused."""

import hashlib
import json
import os
import subprocess
import sys
from io import BytesIO, StringIO

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet
from rich.console import Console

from models.errors import BackboneError
from models.identity import BackboneConfig
from models.prepare import prepare_backbone
from models.preprocess import decode_image
from models.runtime import open_runtime
from service.bulk.destination import MARK, Destination, MadeBy, UnusableDestination
from service.bulk.embedding import PartEmbedder
from service.bulk.parts import Part, cut
from service.bulk.run import MOST_FAILED, BulkFailed, BulkOptions, Tally, bulk_embed
from service.bulk.source import Found, Source, SourceUnavailable
from service.bulk.work import Work
from service.settings import Settings
from service.store.blobs import as_url
from tests.servers import clean_environment

TINY = BackboneConfig(name="tests.networks:tiny")
MADE_BY = MadeBy(
    source="s3://photos", backbone="tiny", backbone_digest="b" * 64, images_per_file=10, any_name=False
)


def png(seed, size=(50, 40)):
    data = BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def plain(size):
    data = BytesIO()
    Image.new("RGB", size, "red").save(data, "PNG")
    return data.getvalue()


def write(folder, **files):
    for name, data in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def options(source, destination, **changed):
    values = {
        "source": str(source), "destination": str(destination), "images_per_file": 10, "any_name": False,
        "actors": 1, "cpus_per_actor": 1, "gpus_per_actor": 0.0, "address": None,
    }  # fmt: skip
    return BulkOptions(**values | changed)


# Source


def test_images_are_listed_in_one_order_whatever_made_them(tmp_path):
    write(tmp_path, b__2_jpg=b"", b__1_PNG=b"", a__3_webp=b"x", a__notes_txt=b"", c_jpeg=b"")
    (tmp_path / "a" / "._3.webp").write_bytes(b"what macOS adds")
    paths = [found.path for found in Source(as_url(str(tmp_path))).images()]
    assert paths == ["c.jpeg", "a/3.webp", "b/1.PNG", "b/2.jpg"]
    named = [found.path for found in Source(as_url(str(tmp_path))).images(any_name=True)]
    assert named == ["c.jpeg", "a/._3.webp", "a/3.webp", "a/notes.txt", "b/1.PNG", "b/2.jpg"]


def test_links_to_nothing_and_to_folders_are_passed_over(tmp_path):
    write(tmp_path, a_jpg=b"")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "nothing")
    (tmp_path / "circle").symlink_to(tmp_path)
    assert [found.path for found in Source(as_url(str(tmp_path))).images()] == ["a.jpg"]


@pytest.mark.parametrize("place", ["none", "a.jpg"], ids=["missing", "a-file"])
def test_a_source_that_is_no_folder_is_said_to_be_none(tmp_path, place):
    write(tmp_path, a_jpg=b"")
    with pytest.raises(SourceUnavailable, match="is no folder"):
        Source(as_url(str(tmp_path / place)))


def test_a_url_nobody_knows_is_refused():
    with pytest.raises(SourceUnavailable, match="nosuch"):
        Source("nosuch://bucket")


# Parts


def listing(names):
    return [Found(name, 1, "then") for name in names]


def test_parts_hold_every_image_once_and_are_about_as_large_as_asked():
    names = [f"{number:05}.jpg" for number in range(5000)]
    parts = list(cut(listing(names), 100))
    assert [path for part in parts for path in part.paths] == names
    assert all(len(part.paths) <= 200 for part in parts)
    assert 70 < len(names) / len(parts) < 130
    assert len({part.name for part in parts}) == len(parts)


def test_one_image_more_changes_one_part_or_two():
    names = [f"{number:05}.jpg" for number in range(5000)]
    before = {part.name for part in cut(listing(names), 100)}
    after = {part.name for part in cut(listing(sorted([*names, "02500-new.jpg"])), 100)}
    assert 1 <= len(after - before) <= 2


def test_a_file_that_was_written_anew_changes_its_part():
    before, after = (next(cut([Found("a.jpg", 1, then)], 10)).name for then in ("Monday", "Tuesday"))
    assert before != after


@pytest.mark.parametrize("images", [1, 2, 3])
def test_parts_may_be_tiny(images):
    names = [f"{number}.jpg" for number in range(20)]
    assert [path for part in cut(listing(names), images) for path in part.paths] == names


def test_a_part_survives_its_json_whatever_is_in_its_names():
    part = Part("embeddings-0.parquet", ("ä.jpg", os.fsdecode(b"\xff.jpg"), 'a"b.jpg'))
    assert part.to_json().isascii()
    assert Part.from_json(part.to_json()) == part


# Destination


def test_a_destination_is_claimed_once_and_found_again(tmp_path):
    destination = Destination(as_url(str(tmp_path / "new")))
    assert destination.claim(MADE_BY) == set()
    destination.put("embeddings-1.parquet", b"x")
    assert Destination(as_url(str(tmp_path / "new"))).claim(MADE_BY) == {"embeddings-1.parquet"}


def test_what_a_killed_write_left_is_no_file_of_embeddings(tmp_path):
    destination = Destination(as_url(str(tmp_path)))
    destination.claim(MADE_BY)
    (tmp_path / "embeddings-1.parquet#1").write_bytes(b"half")  # as the object store's local folder names it
    assert destination.claim(MADE_BY) == set()


@pytest.mark.parametrize(
    ("name", "value"),
    [("backbone_digest", "c" * 64), ("source", "s3://others"), ("images_per_file", 5)],
    ids=["backbone", "source", "size"],
)
def test_a_destination_of_another_run_is_refused(tmp_path, name, value):
    destination = Destination(as_url(str(tmp_path)))
    destination.claim(MADE_BY)
    said = json.loads((tmp_path / MARK).read_text()) | {name: value}
    (tmp_path / MARK).write_text(json.dumps(said))
    with pytest.raises(UnusableDestination, match=f"was made with {name} {value}"):
        destination.claim(MADE_BY)


def test_a_folder_with_something_else_is_refused(tmp_path):
    write(tmp_path, thesis_doc=b"")
    with pytest.raises(UnusableDestination, match=r"empty, .*thesis\.doc"):
        Destination(as_url(str(tmp_path))).claim(MADE_BY)


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_a_damaged_mark_is_refused(tmp_path, text):
    (tmp_path / MARK).write_text(text)
    with pytest.raises(UnusableDestination, match="can't be read"):
        Destination(as_url(str(tmp_path))).claim(MADE_BY)


# What an actor does


@pytest.fixture(scope="module")
def tiny(backbone_cache):
    return prepare_backbone(TINY, backbone_cache)


def embedder(source, destination, tiny, cache, **changed):
    values = {
        "source": as_url(str(source)), "destination": as_url(str(destination)), "backbone": TINY,
        "backbone_digest": tiny.identity.digest, "cache_dir": cache, "decode_threads": 2, "max_batch_size": 3,
        "max_image_pixels": 10_000, "max_image_bytes": 20_000,
    }  # fmt: skip
    return PartEmbedder(Work(**values | changed))


def test_a_file_has_the_service_s_embeddings_and_a_bad_image_hurts_no_neighbour(
    tmp_path, tiny, backbone_cache
):
    good = {f"{number}.png": png(number) for number in range(5)}
    bad = {
        "broken.jpg": (b"\xff\xd8 no", "the file is damaged"),
        "empty.png": (b"", "the file is empty"),
        "large.png": (plain((101, 100)), "10100 pixels, more than the 10000 allowed"),
        "text.jpg": (b"hello", "no image type"),
    }
    source = tmp_path / "in"
    source.mkdir()
    for name, data in {**good, **{name: data for name, (data, _) in bad.items()}}.items():
        (source / name).write_bytes(data)
    paths = tuple(sorted([*good, *bad, "gone.png"]))

    said = embedder(source, tmp_path / "out", tiny, backbone_cache)(
        {"part": Part("p.parquet", paths).to_json()}
    )

    assert said == {"name": "p.parquet", "images": 10, "unreadable": 5, "failed": ""}
    table = parquet.read_table(tmp_path / "out" / "p.parquet")
    assert table["path"].to_pylist() == list(paths)
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 16)
    assert table.schema.metadata[b"polyhead.backbone"] == b"tiny"
    assert table.schema.metadata[b"polyhead.backbone_digest"].decode() == tiny.identity.digest
    runtime = open_runtime(tiny)
    for row in table.to_pylist():
        name = row["path"]
        if name in good:
            pixels = decode_image(good[name], tiny.identity.preprocessing, max_pixels=10_000).pixels
            expected = runtime.run(pixels[None])["embedding"][0]
            assert np.allclose(row["embedding"], expected, rtol=1e-5, atol=1e-6)
            assert (row["sha256"], row["error"]) == (hashlib.sha256(good[name]).hexdigest(), None)
        elif name in bad:
            assert bad[name][1] in row["error"]
            assert (row["sha256"], row["embedding"]) == (hashlib.sha256(bad[name][0]).hexdigest(), None)
        else:
            assert "can't be read" in row["error"]
            assert (row["sha256"], row["embedding"]) == (None, None)


def test_a_file_of_too_many_bytes_is_not_read(tmp_path, tiny, backbone_cache):
    write(tmp_path, in__a_png=png(1), in__b_png=b"x" * 20_001)
    table = embedder(tmp_path / "in", tmp_path / "out", tiny, backbone_cache).embed(["a.png", "b.png"])
    assert table["error"].to_pylist() == [None, "the file has 20001 bytes, more than the 20000 allowed"]
    assert table["sha256"][1].as_py() is None


def test_a_part_of_bad_images_alone_is_a_file_too(tmp_path, tiny, backbone_cache):
    write(tmp_path, in__a_png=b"no")
    table = embedder(tmp_path / "in", tmp_path / "out", tiny, backbone_cache).embed(["a.png"])
    assert table["embedding"].to_pylist() == [None]


def test_a_name_that_is_no_utf_8_is_written_with_its_bytes_escaped(tmp_path, tiny, backbone_cache):
    name = os.fsdecode(b"\xff.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(png(1))
    table = embedder(tmp_path / "in", tmp_path / "out", tiny, backbone_cache).embed([name])
    assert (table["path"][0].as_py(), table["error"][0].as_py()) == ("\\udcff.png", None)


def test_a_part_that_cannot_be_written_is_said_and_nothing_is_there(tmp_path, tiny, backbone_cache):
    write(tmp_path, in__a_png=png(1))
    actor = embedder(tmp_path / "in", tmp_path / "out", tiny, backbone_cache)
    (tmp_path / "out").rmdir()
    (tmp_path / "out").write_bytes(b"a file where the folder was")
    said = actor({"part": Part("p.parquet", ("a.png",)).to_json()})
    assert said["failed"]
    assert (tmp_path / "out").read_bytes() == b"a file where the folder was"


def test_a_machine_with_another_backbone_is_refused(tmp_path, tiny, backbone_cache):
    (tmp_path / "in").mkdir()
    with pytest.raises(BackboneError, match="its digest is"):
        embedder(tmp_path / "in", tmp_path / "out", tiny, backbone_cache, backbone_digest="0" * 64)


# What is refused before Ray is started


@pytest.fixture
def settings(tmp_path, backbone_cache):
    return Settings(backbone=TINY.name, cache_dir=backbone_cache, data_dir=tmp_path / "data")


def run(settings, said):
    return bulk_embed(settings, said, Console(file=StringIO()))


def test_a_source_without_images_is_refused_and_no_destination_is_made(tmp_path, settings):
    write(tmp_path, in__readme_txt=b"")
    with pytest.raises(BulkFailed, match=r"holds no \.jpg"):
        run(settings, options(tmp_path / "in", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_bucket_that_cannot_be_read_is_one_line_with_the_reason(tmp_path, settings, monkeypatch):
    """A port that nobody listens on; retries end within seconds."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    with pytest.raises(SourceUnavailable, match=r"^can't read s3://bucket/photos: ") as refused:
        run(settings, options("s3://bucket/photos", tmp_path / "out"))
    assert len(str(refused.value).splitlines()) == 1
    assert "hush" not in str(refused.value)


def test_a_destination_of_another_backbone_is_refused(tmp_path, settings):
    write(tmp_path, in__a_png=png(1))
    Destination(as_url(str(tmp_path / "out"))).claim(
        MadeBy(
            source=as_url(str(tmp_path / "in")), backbone="tiny", backbone_digest="b" * 64,
            images_per_file=10, any_name=False,
        )
    )  # fmt: skip
    with pytest.raises(UnusableDestination, match="was made with backbone_digest bbb"):
        run(settings, options(tmp_path / "in", tmp_path / "out"))


def test_a_destination_within_a_source_of_any_names_is_refused(tmp_path, settings):
    write(tmp_path, in__a_png=png(1))
    with pytest.raises(UnusableDestination, match="would be read"):
        run(settings, options(tmp_path / "in", tmp_path / "in" / "out", any_name=True))


def test_a_run_ends_when_every_file_fails():
    tally = Tally()
    for number in range(MOST_FAILED):
        tally.add({"name": f"{number}", "images": 0, "unreadable": 0, "failed": "no space"})
    with pytest.raises(BulkFailed, match="no space"):
        tally.add({"name": "last", "images": 0, "unreadable": 0, "failed": "no space"})


def test_without_the_extra_it_says_what_to_install(tmp_path):
    write(tmp_path, in__a_png=png(1))
    code = (
        "import sys; sys.modules['ray'] = None\n"
        f"sys.argv = ['polyhead', 'bulk-embed', '{tmp_path}/in', '{tmp_path}/out']\n"
        "from service.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean_environment()
        | {"POLYHEAD_BACKBONE": TINY.name, "POLYHEAD_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        2,
        "polyhead: bulk-embed needs Ray Data: pip install 'polyhead[bulk]'\n",
    )
