"""The report as a reader sees it, in plain text."""

import io

import pytest
from rich.console import Console

from service.client.report import figure, report


def text_of(renderable, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, markup=False)
    console.print(renderable)
    return console.file.getvalue()


def version(**changes):
    rows = [
        {"label": "sound", "precision": 0.9, "recall": 0.75, "f1": 0.8182, "support": 24},
        {"label": "defective", "precision": 0.7, "recall": 0.875, "f1": 0.7778, "support": 16},
    ]
    metrics = {
        "accuracy": 0.8,
        "balanced_accuracy": 0.8125,
        "macro_f1": 0.798,
        "count": 40,
        "per_class": rows,
        "confusion_matrix": {"labels": ["sound", "defective"], "counts": [[18, 6], [2, 14]]},
    }
    said = {
        "version": 2,
        "strategy": "head",
        "evaluation": "test",
        "trainable_parameters": 2562,
        "total_parameters": 3_415_586,
        "metrics": metrics,
        "decision": {},
    }
    return said | changes


def row_of(text: str, start: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.strip("│ ").startswith(start))
    return [cell.strip() for cell in line.strip("│ ").split("│")]


def test_the_report_names_version_scores_and_parameters():
    text = text_of(report(version()))
    assert "Version 2, strategy head: 2,562 of 3,415,586 parameters trained" in text
    assert "40 examples of test" in text
    assert row_of(text, "balanced accuracy") == ["balanced accuracy", "0.8125"]


def test_what_auto_tried_has_a_row_each_with_its_reason():
    candidates = [
        {
            "rung": "head",
            "validation": {"score": 0.85, "interval": [0.8, 0.9]},
            "seconds": 1.25,
            "why": "the floor",
        },
        {"rung": "lora", "why": "not tried: no time"},
    ]
    auto = {"chosen": "head", "rule": {"because": "small data of a similar domain"}, "candidates": candidates}
    text = text_of(report(version(strategy="auto", decision={"auto": auto})))
    assert "It chose head. small data of a similar domain" in text
    assert row_of(text, "head") == ["head", "0.8500", "0.8000 - 0.9000", "1.2", "the floor"]
    assert row_of(text, "lora") == ["lora", "-", "-", "-", "not tried: no time"]


def test_each_class_has_a_row():
    text = text_of(report(version()))
    assert row_of(text, "defective") == ["defective", "0.7000", "0.8750", "0.7778", "16"]


def test_the_rows_of_the_confusion_matrix_are_the_truth():
    text = text_of(report(version())).split("Confusion matrix")[1]
    assert row_of(text, "sound") == ["sound", "18", "6"]
    assert row_of(text, "defective") == ["defective", "2", "14"]


def test_out_of_fold_scores_are_named_as_such():
    assert "out of fold" in text_of(report(version(evaluation="out_of_fold")))


def test_many_classes_are_listed_by_their_worst_confusions():
    """A matrix of 37 columns fits no terminal."""
    labels = [f"class {i}" for i in range(37)]
    counts = [[5 if i == j else 0 for j in range(37)] for i in range(37)]
    counts[3][4], counts[30][1] = 2, 7
    matrix = {"labels": labels, "counts": counts}
    text = text_of(report(version(metrics={"accuracy": 0.9, "confusion_matrix": matrix})))
    listed = text.split("Most confused")[1]
    assert listed.index("class 30") < listed.index("class 3 ")
    assert row_of(listed, "class 30") == ["class 30", "class 1", "7"]


def test_a_regression_has_its_own_figures_and_no_classes():
    text = text_of(report(version(metrics={"mae": 1.5, "rmse": 2.0, "r2": 0.75, "count": 12})))
    assert row_of(text, "mean absolute error") == ["mean absolute error", "1.5000"]
    assert "Confusion" not in text


def test_a_multilabel_report_gives_the_average_precision_of_each_class():
    known = {"precision": 1.0, "recall": 1.0, "f1": 0.5, "average_precision": 0.25, "support": 4}
    rows = [{"label": "x"} | known, {"label": "y"} | known | {"recall": None, "support": 0}]
    text = text_of(report(version(metrics={"mean_average_precision": 0.25, "per_class": rows})))
    assert row_of(text, "y") == ["y", "1.0000", "-", "0.5000", "0.2500", "0"]


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (
            {"published": True, "published_reason": "first version"},
            "version 2 is production now (first version)",
        ),
        (
            {"published": False, "published_reason": "not better"},
            "Not published: production stays as it is (not better)",
        ),
    ],
    ids=["published", "not published"],
)
def test_the_report_ends_with_what_was_published_and_why(run, expected):
    assert expected in text_of(report(version(), run | {"version": 2}))


def test_warnings_of_the_decision_are_shown():
    text = text_of(report(version(decision={"warnings": ["class x has one group only"]})))
    assert "warning: class x has one group only" in text


def test_labels_are_data_not_markup():
    """A class may be called [red]."""
    rows = [{"label": "[red]", "precision": 1.0, "support": 1}]
    assert "[red]" in text_of(report(version(metrics={"per_class": rows})))


@pytest.mark.parametrize(("value", "expected"), [(None, "-"), (1200, "1,200"), (0.25, "0.2500")])
def test_counts_stay_whole_and_fractions_get_four_digits(value, expected):
    assert figure(value) == expected
