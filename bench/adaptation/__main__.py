"""The evidence of the ways to adapt, `three-ways`, `map`, `elpv` and `rungs`: JSON lines, tables, pictures.

An interrupted program goes on where it was when the same command is given again; one that is complete only
writes its report anew.
"""

import argparse
import signal
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from bench import report as machines
from bench.processes import BenchFailed
from models.errors import PolyheadError

if TYPE_CHECKING:
    from bench.adaptation.served import Plan

DOCS = Path(__file__).resolve().parents[2] / "docs" / "benchmarks" / "adaptation"
QUICK = DOCS.parents[2] / "build" / "bench" / "adaptation"
TINY = "tests.networks:tiny"  # the network of --quick
DEFAULT = "efficientnet_lite0"


def main(words: list[str]) -> int:
    said = arguments(words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # through every `finally`: no server is left behind
    try:
        began = time.monotonic()
        print(PROGRAMS[said.program](said))
        tell(f"{(time.monotonic() - began) / 60:.1f} minutes; figures in {said.out}")
    except (BenchFailed, PolyheadError) as failure:
        print(f"No evidence: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted: the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.adaptation",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    programs = parser.add_subparsers(dest="program", required=True)
    ways = _program(programs, "three-ways", "frozen, one rate, discriminative rates, from scratch")
    _fits(ways, seeds=5)
    ways.add_argument("--input-size", type=int, default=128, help="pixels")
    ways.add_argument("--train", type=int, default=240, help="photos, the same number of each class")
    ways.add_argument("--validation", type=int, default=120)
    ways.add_argument("--epochs", type=int, default=6, help="after one in which the head trains alone")
    ways.add_argument("--batch-size", type=int, default=32)
    ways.add_argument("--lr", type=float, default=1e-3, help="of the head")
    ways.add_argument(
        "--decay", type=float, default=0.3, help="rate of a block over that of the one after it"
    )
    ways.add_argument("--augmentation", choices=("none", "light", "heavy"), default="light")
    grid = _program(programs, "map", "training size x domain x strategy, and auto's choice")
    _fits(grid, seeds=5)
    grid.add_argument("--sizes", type=int, nargs="+", default=[5, 10, 20, 50, 200], help="photos of a class")
    grid.add_argument(
        "--strategies",
        nargs="+",
        default=["head", "stages", "last_block", "lora", "finetune"],
        help="or name@blocks",
    )
    grid.add_argument("--input-size", type=int, help="pixels; default: the weights' own")
    grid.add_argument("--finetune-size", type=int, default=128, help="pixels, of finetune")
    grid.add_argument("--finetune-epochs", type=int, default=5)
    grid.add_argument("--options", default="{}", help='JSON by strategy: {"last_block": {"epochs": 8}}')
    elpv = _program(programs, "elpv", "ELPV through HTTP, fold by fold")
    _folds(elpv)
    elpv.add_argument("--strategy", default="auto")
    elpv.add_argument("--options", default="{}", help="JSON, of the run")
    rungs = _program(programs, "rungs", "head, stages, last_block, lora on the folds of ELPV, through HTTP")
    _folds(rungs)
    rungs.set_defaults(strategy="head", options="{}")
    return _completed(parser.parse_args(words))


def _program(
    programs: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, about: str
) -> argparse.ArgumentParser:
    one = programs.add_parser(
        name, help=about, description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    one.add_argument("--quick", action="store_true", help="tiny; its figures mean nothing")
    one.add_argument("--out", type=Path, help="folder of the figures; default: docs/benchmarks/adaptation")
    one.add_argument(
        "--work",
        type=Path,
        default=Path(platformdirs.user_cache_dir("polyhead-bench")),
        help="folder of what can be made again: stamps, exported backbones, feature maps",
    )
    one.add_argument("--backbone", help=f"a timm name, or package.module:factory; default: {DEFAULT}")
    return one


def _fits(parser: argparse.ArgumentParser, *, seeds: int) -> None:
    parser.add_argument("--datasets", nargs="+", help="default: elpv stamps; --quick: elpv")
    parser.add_argument("--stamps", type=Path, help="the folder of stamps, where they are unpacked already")
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--threads", type=int, default=1)


def _folds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="of the four folds")
    parser.add_argument("--folds", default="0,1,2,3")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a server's setting: input_size=300"
    )


def _completed(said: argparse.Namespace) -> argparse.Namespace:
    """What was left open, and what --quick makes small."""
    said.out = said.out or (QUICK if said.quick else DOCS)
    said.backbone = said.backbone or (TINY if said.quick else DEFAULT)
    if said.program in {"elpv", "rungs"}:
        return said
    said.datasets = said.datasets or (["elpv"] if said.quick else ["elpv", "stamps"])
    said.per_class = 60 if said.quick else None  # photos
    if said.quick:
        said.seeds = min(said.seeds, 2)
        small = {"input_size": 32, "train": 40, "validation": 20, "epochs": 2, "batch_size": 16}
        if said.program == "map":
            small = {"finetune_size": 32, "finetune_epochs": 1}
            said.sizes, said.strategies = [5, 20], [name for name in said.strategies if name != "lora"]
        vars(said).update(small)
    return said


def three_ways(said: argparse.Namespace) -> str:
    from bench.adaptation import three_ways as program  # noqa: PLC0415 - torch, which --help can do without
    from bench.adaptation.journal import Journal  # noqa: PLC0415
    from bench.adaptation.three_ways_report import report  # noqa: PLC0415

    plan = program.plan_of(said)
    journal = Journal(said.out / "three-ways.jsonl", plan.settings)
    program.measure(plan, journal, said, tell)
    rows = [row for row in journal.rows() if row["key"] in plan.keys]
    return report(plan, rows, where(said), said.out)


def grid(said: argparse.Namespace) -> str:
    from bench.adaptation import grid as program  # noqa: PLC0415 - torch
    from bench.adaptation.grid_report import report  # noqa: PLC0415

    plan = program.plan_of(said)
    program.measure(plan, said.out, said, tell)
    return report(plan, program.rows_of_plan(plan, said.out), where(said), said.out)


def elpv(said: argparse.Namespace) -> str:
    from bench.adaptation import served as program  # noqa: PLC0415
    from bench.adaptation.served_report import report  # noqa: PLC0415

    plan = program.plan_of(said)
    return report(plan, _served(plan, said), where(said), said.out)


def rungs(said: argparse.Namespace) -> str:
    from bench.adaptation import served as program  # noqa: PLC0415
    from bench.adaptation.rungs_report import RUNGS, report  # noqa: PLC0415

    plan = program.plan_of(said)
    # the tiny network of --quick has no room for factors
    plans = {rung: replace(plan, strategy=rung) for rung in RUNGS if not (said.quick and rung == "lora")}
    return report(plans, {rung: _served(each, said) for rung, each in plans.items()}, where(said), said.out)


def _served(plan: "Plan", said: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the folds that are lacking. Returns: the rows of all seeds."""
    from rich.console import Console  # noqa: PLC0415

    from bench.adaptation.journal import Journal  # noqa: PLC0415
    from bench.adaptation.served import measure  # noqa: PLC0415

    journal = Journal(said.out / "elpv.jsonl", plan.settings)
    measure(plan, journal, said.work, Console(stderr=True, markup=False, highlight=False, emoji=False))
    return journal.rows()


PROGRAMS = {"three-ways": three_ways, "map": grid, "elpv": elpv, "rungs": rungs}


def where(said: argparse.Namespace) -> machines.Machine:
    return machines.machine(
        scale="quick" if said.quick else "full",
        backbone=said.backbone,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        program="bench.adaptation",
    )


def tell(text: str) -> None:
    print(f"[{datetime.now(UTC):%H:%M:%S}] {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
