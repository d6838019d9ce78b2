"""Reading a local folder: which photos, which labels, and what stands in the way."""

import pytest

from service.client.folder import UnusableSource, is_archive, read_folder
from service.layouts import Labelling


def write(folder, *names, text=""):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return folder


def test_class_folders_suit_a_multiclass_task(tmp_path):
    folder = read_folder(write(tmp_path, "dog/b.png", "cat/a.jpg", "cat/readme.txt"))
    assert [photo.name for photo in folder.photos] == ["cat/a.jpg", "dog/b.png"]
    assert folder.photos[0].path == tmp_path / "cat" / "a.jpg"
    assert folder.photos[0].labelling == Labelling(labels=("cat",))
    assert folder.kind == "multiclass"
    assert folder.left_out == ("cat/readme.txt",)
    assert not folder.each_its_own


@pytest.mark.parametrize(
    ("csv", "kind"),
    [
        ("file_name,label\na.jpg,x\n", "multiclass"),
        ("file_name,labels\na.jpg,x;y\n", "multilabel"),
        ("file_name,value\na.jpg,2.5\n", "regression"),
    ],
    ids=["label", "labels", "value"],
)
def test_metadata_suggests_the_kind_of_the_task(tmp_path, csv, kind):
    write(tmp_path, "a.jpg")
    write(tmp_path, "metadata.csv", text=csv)
    folder = read_folder(tmp_path)
    assert folder.kind == kind
    assert folder.each_its_own


def test_links_that_lead_in_circles_are_not_followed(tmp_path):
    write(tmp_path, "cat/a.jpg")
    (tmp_path / "cat" / "again").symlink_to(tmp_path, target_is_directory=True)
    assert len(read_folder(tmp_path).photos) == 1


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{"], ids=["not UTF-8", "not JSON"])
def test_broken_metadata_is_said_in_one_line(tmp_path, content):
    write(tmp_path, "a.jpg")
    (tmp_path / "metadata.jsonl").write_bytes(content)
    with pytest.raises(UnusableSource, match=str(tmp_path)) as unusable:
        read_folder(tmp_path)
    assert "\n" not in str(unusable.value)


def test_a_folder_without_photos_is_unusable(tmp_path):
    with pytest.raises(UnusableSource, match="holds no"):
        read_folder(write(tmp_path, "cat/a.gif"))


def test_what_is_not_there_is_unusable(tmp_path):
    with pytest.raises(UnusableSource, match="neither a folder nor an archive"):
        read_folder(tmp_path / "gone")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.zip", True), ("a.tar.GZ", True), ("a.tgz", True), ("a.jpg", False), ("a", False)],
)
def test_an_archive_is_known_by_its_name(tmp_path, name, expected):
    assert is_archive(write(tmp_path, name) / name) == expected
