"""The programs of the evidence run from end to end at a tiny size. Nothing here asserts a time."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from bench.adaptation import images
from bench.adaptation.__main__ import PROGRAMS, arguments, main
from bench.adaptation.fits import from_hex, to_hex
from bench.adaptation.grid import AUTO, Plan, plan_of
from bench.adaptation.grid_report import Cell, verdicts
from bench.adaptation.images import CLASSES, held_out, sample, solar_cells, stamps
from bench.adaptation.journal import Journal
from bench.adaptation.rungs_report import RUNGS
from bench.adaptation.rungs_report import verdicts as rung_verdicts
from bench.adaptation.spread import mean, no_worse, paired
from bench.adaptation.three_ways import WAYS, change, parts
from bench.adaptation.three_ways import plan_of as ways_of
from bench.processes import BenchFailed

STAMPS_A_CLASS = 12


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)  # the programs set their own


@pytest.fixture(scope="module")
def stamps_root(tmp_path_factory):
    """Cut-out squares in the folders of the real stamps, with the kinds of files that are to be left out."""
    root = tmp_path_factory.mktemp("stamps")
    rng = np.random.default_rng(0)
    for folder in CLASSES.values():
        (root / folder / "cartoon").mkdir(parents=True)
        names = [f"thing-{number}" for number in range(STAMPS_A_CLASS)]
        for name in (*names, "cartoon/drawn", "hedgehog", "thing-0_mirror"):
            pixels = rng.integers(0, 256, (20, 30, 4), dtype=np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{name}.png")
        (root / folder / "thing-0.txt").write_text("A thing.")
    return root


def quick(program, tmp_path, *more):
    return arguments(
        [program, "--quick", "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), *more]
    )


@pytest.mark.usefixtures("one_thread")
def test_three_ways_are_measured_once_and_reported_again(tmp_path, stamps_root):
    said = quick("three-ways", tmp_path, "--datasets", "elpv", "stamps", "--stamps", str(stamps_root))
    shown = PROGRAMS["three-ways"](said)
    journal = tmp_path / "out" / "three-ways.jsonl"
    lines = journal.read_text("utf-8").splitlines()
    assert len(lines) == 2 * 2 * len(WAYS)  # two seeds of two collections
    kept = json.loads((tmp_path / "out" / "three-ways.json").read_text("utf-8"))
    assert {name: len(found) for name, found in kept["verdicts"].items()} == {"elpv": 2, "stamps": 2}
    assert (tmp_path / "out" / "three-ways.png").stat().st_size > 1000
    moved = {way: [json.loads(line)["moved"]["stem"] for line in lines if f'"{way}"' in line] for way in WAYS}
    assert moved["frozen"] == [0.0] * 4
    assert max(moved["discriminative rates"]) < min(moved["one rate"])

    assert PROGRAMS["three-ways"](said) == shown
    assert journal.read_text("utf-8").splitlines() == lines


@pytest.mark.usefixtures("one_thread")
def test_the_map_is_measured_and_drawn_with_what_auto_chose(tmp_path, stamps_root):
    said = quick("map", tmp_path, "--datasets", "elpv", "stamps", "--stamps", str(stamps_root))
    shown = PROGRAMS["map"](said)
    rows = [json.loads(line) for line in (tmp_path / "out" / "map.jsonl").read_text("utf-8").splitlines()]
    # of stamps there are too few for 20 a class
    assert {tuple(row["key"][:2]) for row in rows} == {("elpv", 5), ("elpv", 20), ("stamps", 5)}
    assert {row["key"][2] for row in rows} == {"head", "stages", "last_block", "finetune", "auto"}
    assert {row["chose"] for row in rows if row["key"][2] == "auto"} <= {"head", "stages", "last_block"}
    for row in rows:
        assert from_hex(row["correct"], row["held_out"]).mean() == pytest.approx(row["accuracy"])
    assert (tmp_path / "out" / "map.png").stat().st_size > 1000
    assert "| near (stamps) | 5 | 25 / 25 |" in shown
    assert PROGRAMS["map"](said) == shown


@pytest.mark.timeout(280)
def test_a_fold_of_solar_cells_goes_through_http(tmp_path):
    shown = PROGRAMS["elpv"](quick("elpv", tmp_path, "--strategy", "head", "--folds", "1"))
    (row,) = [json.loads(line) for line in (tmp_path / "out" / "elpv.jsonl").read_text("utf-8").splitlines()]
    assert row["key"] == [0, 1]
    assert row["fitted_on"] == "train+validation"
    assert row["test"]["count"] >= 50  # a quarter of 200
    assert "served, seed 0 (1 of 4 folds)" in shown


@pytest.mark.timeout(280)
def test_rungs_are_held_against_each_other_on_the_same_folds(tmp_path):
    shown = PROGRAMS["rungs"](quick("rungs", tmp_path, "--folds", "1"))
    lines = [json.loads(line) for line in (tmp_path / "out" / "elpv.jsonl").read_text("utf-8").splitlines()]
    assert [(row["key"], row["strategy"]) for row in lines] == [
        ([0, 1], rung) for rung in RUNGS if rung != "lora"
    ]
    first = next(line for line in shown.splitlines() if line.startswith("| 0 | 1 |"))
    assert first == "| 0 | 1 | " + " | ".join(f"{100 * row['accuracy']:.2f}" for row in lines) + " |"


def test_lora_has_to_be_above_the_head_and_close_to_the_last_block():
    others = {"head": [0.80, 0.82], "last_block": [0.86, 0.88]}
    good = rung_verdicts({**others, "lora": [0.85, 0.88]})
    assert [text.partition(" (")[0] for text in good.values()] == ["reached", "reached"]
    poor = rung_verdicts({**others, "lora": [0.79, 0.82]})
    assert [text.partition(" (")[0] for text in poor.values()] == ["**not reached**", "**not reached**"]


@pytest.mark.parametrize(
    "words",
    [
        ["map", "--quick", "--datasets", "digits"],
        ["map", "--quick", "--options", "{"],
        ["map", "--quick", "--strategies", "magic"],
        ["map", "--quick", "--strategies", "last_block@all"],
        ["map", "--quick", "--options", '{"magic": {}}'],
        ["map", "--quick", "--options", '{"finetune": {"lr": -1}}'],
        ["three-ways", "--quick", "--datasets", "stamps", "--stamps", "/nowhere"],
        ["elpv", "--quick", "--set", "input_size"],
        ["elpv", "--quick", "--folds", "4"],
    ],
    ids=[
        "photos",
        "no JSON",
        "strategy",
        "blocks",
        "options of none",
        "option",
        "no stamps",
        "setting",
        "fold",
    ],
)
def test_what_cannot_be_measured_is_said_in_a_line(words, tmp_path, capsys):
    assert main([*words, "--out", str(tmp_path), "--work", str(tmp_path)]) == 1
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("No evidence: ")


def test_stamps_are_photographs_only(stamps_root):
    found = stamps(stamps_root)
    assert np.bincount(found.targets).tolist() == [STAMPS_A_CLASS] * len(CLASSES)
    assert {path.stem for path in found.paths} == {f"thing-{number}" for number in range(STAMPS_A_CLASS)}


def test_stamps_that_cannot_be_fetched_say_what_to_do(tmp_path):
    with pytest.raises(BenchFailed, match=r"there is no apt-missing here .* --stamps FOLDER"):
        images._run(["apt-missing"], tmp_path)
    with pytest.raises(BenchFailed, match=r"failed \(no network\): .* --stamps FOLDER"):
        images._run(["sh", "-c", "echo no network >&2; exit 100"], tmp_path)


def test_a_cell_is_defective_from_one_half_on():
    cells = solar_cells()
    assert len(cells) == 2624
    assert np.bincount(cells.targets).tolist() == [821, 1803]


def test_nothing_is_learned_from_what_is_held_out():
    cells = solar_cells()
    pool, held = held_out(cells, 0.25, 0)
    assert len(held) >= 600
    assert sorted([*pool, *held]) == list(range(len(cells)))
    assert held_out(cells, 0.25, 0)[1].tolist() == held.tolist()
    chosen = sample(cells, pool, 200, 3)
    assert set(chosen) <= set(pool)
    assert np.bincount(cells.targets[chosen]).tolist() == [200, 200]


def test_train_and_validation_of_a_seed_have_no_photo_in_common():
    plan = ways_of(arguments(["three-ways"]))
    cells = solar_cells()
    train, validation = parts(plan, cells, 0)
    assert (len(train), len(validation)) == (240, 120)
    assert not set(train) & set(validation)
    assert set(parts(plan, cells, 1)[0]) != set(train)


def test_a_journal_goes_on_after_a_line_that_was_cut_off(tmp_path):
    journal = Journal(tmp_path / "rows.jsonl", {"lr": 0.1})
    journal.add(["a", 0], score=1)
    with journal.path.open("a") as file:
        file.write('{"key": ["a", 1], "sett')
    assert journal.missing([["a", 0], ["a", 1]]) == [["a", 1]]
    journal.add(["a", 1], score=2)
    assert [row["score"] for row in journal.rows()] == [1, 2]


def test_a_row_of_other_settings_counts_as_not_measured(tmp_path):
    Journal(tmp_path / "rows.jsonl", {"lr": 0.1}).add(["a", 0], score=1)
    assert Journal(tmp_path / "rows.jsonl", {"lr": 0.2}).missing([["a", 0]]) == [["a", 0]]


def test_a_changed_default_is_measured_anew():
    plan = plan_of(arguments(["map"]))
    other = Plan(**{**vars(plan), "given": {"last_block": {"epochs": 3}}})
    assert other.settings("last_block") != plan.settings("last_block")
    assert other.settings("head") == plan.settings("head")


@pytest.mark.parametrize("count", [1, 8, 13])
def test_right_and_wrong_come_back_from_their_bits(count):
    right = np.random.default_rng(count).random(count) < 0.5
    assert from_hex(to_hex(right), count).tolist() == right.tolist()


def test_a_weight_change_is_relative():
    layer = nn.Linear(2, 1, bias=False)
    start = {"weight": torch.tensor([[3.0, 4.0]])}
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 4.5]]))
    assert change(start, layer, ("weight",)) == pytest.approx(0.1)


def test_a_difference_is_judged_pair_by_pair():
    """Seeds differ by far more than the two do."""
    difference = paired([0.5, 0.7, 0.9], [0.52, 0.72, 0.92])
    assert difference.value == pytest.approx(-0.02)
    assert not no_worse(difference)
    assert no_worse(difference, slack=0.03)
    assert no_worse(paired([0.5, 0.9], [0.6, 0.8]))


def test_one_seed_excuses_nothing():
    assert not no_worse(mean([-0.001]))


def cell(auto, head, best, size=5):
    seeds = range(len(auto))
    scores = {"head": head, "last_block": best, AUTO: auto}
    return Cell(
        dataset="elpv",
        size=size,
        scores={name: dict(zip(seeds, values, strict=True)) for name, values in scores.items()},
        chose=dict.fromkeys(seeds, "head"),
    )


def test_auto_is_held_against_the_best_and_the_probe():
    good = cell(auto=[0.80, 0.82, 0.81], head=[0.75, 0.77, 0.76], best=[0.805, 0.825, 0.815])
    poor = cell(auto=[0.70, 0.72, 0.71], head=[0.75, 0.77, 0.76], best=[0.80, 0.82, 0.81], size=20)
    assert (good.best, good.near_best, good.above_probe) == ("last_block", True, True)
    assert (poor.near_best, poor.above_probe) == (False, False)
    said = verdicts([good, poor])
    assert said["auto near the best"] == "**not reached** (1 of 2 cells; goal 90%)"
    assert said["auto not below the linear probe"] == "**not reached** (below it: elpv 20)"


def test_without_auto_nothing_is_claimed():
    tried = Cell(dataset="elpv", size=5, scores={"head": {0: 0.5}, AUTO: {}}, chose={})
    assert tried.near_best is None
    assert verdicts([tried]) == {"auto": "not measured"}
