"""One understanding of the accepted layouts, for folders and archives."""

import pytest

from service.layouts import InvalidLayout, Labelling, read_layout


def no_text(name: str) -> str:
    raise AssertionError(name)


def layout_of(csv: str, *images: str):
    return read_layout([*images, "metadata.csv"], lambda _: csv)


def test_a_folder_is_the_label():
    layout = read_layout(["cat/1.jpg", "dog/2.PNG", "dog/more/3.webp"], no_text)
    assert layout.kind == "classes"
    assert {name: said.labels for name, said in layout.photos.items()} == {
        "cat/1.jpg": ("cat",),
        "dog/2.PNG": ("dog",),
        "dog/more/3.webp": ("dog",),
    }


def test_split_folders_are_the_split():
    layout = read_layout(["train/cat/1.jpg", "test/dog/2.jpg", "validation/cat/3.jpg"], no_text)
    assert layout.photos["test/dog/2.jpg"] == Labelling(labels=("dog",), split="test")
    assert {said.split for said in layout.photos.values()} == {"train", "validation", "test"}


@pytest.mark.parametrize(
    "names", [["train/1.jpg", "plane/2.jpg"], ["train/1.jpg", "test/2.jpg"]], ids=["beside others", "flat"]
)
def test_train_may_also_be_a_class_of_vehicles(names):
    layout = read_layout(names, no_text)
    assert layout.photos["train/1.jpg"] == Labelling(labels=("train",))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("photos/cat/1.jpg", Labelling(labels=("cat",))),
        ("photos/test/cat/1.jpg", Labelling(labels=("cat",), split="test")),
        ("train/cat/1.jpg", Labelling(labels=("cat",), split="train")),
        ("cat/1.jpg", Labelling(labels=("cat",))),
    ],
)
def test_one_folder_around_everything_is_passed_over(name, said):
    """What `zip -r photos.zip photos` makes; it would be everyone's label otherwise."""
    assert read_layout([name], no_text).photos[name] == said


def test_a_photo_outside_any_folder_has_no_label():
    assert read_layout(["1.jpg"], no_text).photos["1.jpg"] == Labelling()


def test_what_is_no_image_is_left_out_and_what_is_hidden_is_not_mentioned():
    layout = read_layout(["cat/1.jpg", "cat/notes.txt", "cat/.DS_Store", "__MACOSX/cat/._1.jpg"], no_text)
    assert list(layout.photos) == ["cat/1.jpg"]
    assert layout.left_out == ("cat/notes.txt",)


def test_metadata_csv_names_labels_groups_and_splits():
    csv = "file_name,label,group,split\na.jpg,cat,user-1,train\nsub/b.jpg,,,\n"
    layout = layout_of(csv, "a.jpg", "sub/b.jpg")
    assert layout.photos == {
        "a.jpg": Labelling(labels=("cat",), group="user-1", split="train"),
        "sub/b.jpg": Labelling(),
    }


def test_metadata_jsonl_may_name_several_labels_or_a_value():
    lines = '{"file_name": "a.jpg", "labels": ["x", "y"]}\n\n{"file_name": "b.jpg", "labels": []}\n'
    layout = read_layout(["a.jpg", "b.jpg", "metadata.jsonl"], lambda _: lines)
    assert [said.labels for said in layout.photos.values()] == [("x", "y"), ()]
    assert layout.several
    values = read_layout(["a.jpg", "metadata.jsonl"], lambda _: '{"file_name": "a.jpg", "value": 2.5}')
    assert values.photos["a.jpg"] == Labelling(value=2.5)


@pytest.mark.parametrize("cell", ["x; y", '"[""x"", ""y""]"'], ids=["separated", "json"])
def test_a_csv_cell_holds_several_labels(cell):
    assert layout_of(f"file_name,labels\na.jpg,{cell}\n", "a.jpg").photos["a.jpg"].labels == ("x", "y")


def test_metadata_inside_a_split_folder_speaks_of_that_split():
    layout = read_layout(["test/a.jpg", "test/metadata.csv"], lambda _: "file_name,label\na.jpg,cat\n")
    assert layout.photos["test/a.jpg"] == Labelling(labels=("cat",), split="test")


def test_a_bad_row_is_a_problem_of_its_own():
    csv = "file_name,value,split\na.jpg,1.5,\nb.jpg,much,\nc.jpg,2,sometimes\ngone.jpg,1,\n,3,\n"
    layout = layout_of(csv, "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    assert list(layout.photos) == ["a.jpg"]
    assert dict(layout.problems) == {
        "b.jpg": "value 'much' is no number",
        "c.jpg": "split 'sometimes' is none of train, validation, test",
        "gone.jpg": "metadata.csv names it, but there is no such image",
        "metadata.csv, row 5": "has no file_name",
        "d.jpg": "no metadata names it",
    }


def test_a_path_out_of_the_folder_names_no_image():
    layout = layout_of("file_name,label\n../../secret.jpg,x\n", "a.jpg")
    assert not layout.photos


@pytest.mark.parametrize("text", ["{", "[1]"], ids=["no json", "no object"])
def test_broken_metadata_is_refused_in_one_line(text):
    with pytest.raises(InvalidLayout, match=r"^metadata.jsonl, line 1: no JSON"):
        read_layout(["a.jpg", "metadata.jsonl"], lambda _: text)
