"""The rows as JSON and as a Markdown table, with the machine, the versions and the command that made them."""

import json
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.rows import Row, number, shown

PACKAGES = (
    "litserve",
    "torch",
    "torchvision",
    "timm",
    "openvino",
    "onnxruntime-gpu",
    "pillow",
    "numpy",
    "uvicorn",
    "uvloop",
)
ABOUT = (
    "Medians of interleaved rounds, with the range in brackets. The figure is made round by round. `others`:",
    "what other people's processes took of the cores meanwhile; above 10% a row is disturbed. Beside others,",
    "several processes get more of the cores than one, and threads that wait for each other get little done:",
    "ratios of wall time then flatter polyhead, against the limit and against plain LitServe. What an image",
    "costs in CPU is the better witness.",
)
BUSY = 0.5  # processes that wanted to run beside ours, before the run; more makes a machine busy


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where a run was made."""

    cpu: str
    cores: int
    memory_gb: float
    system: str
    load_before: float  # processes that wanted to run in the minute before
    versions: dict[str, str]
    commit: str
    command: str
    scale: str
    backbone: str
    date: str
    minutes: float = 0.0

    @property
    def busy(self) -> bool:
        return self.load_before > BUSY


def machine(*, scale: str, backbone: str, date: str, program: str = "bench") -> Machine:
    """Args: program: that `python -m` was given."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)  # noqa: S607
    return Machine(
        cpu=names[0] if names else platform.processor() or "unknown",
        cores=os.cpu_count() or 0,
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        system=f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        load_before=os.getloadavg()[0],
        versions={name: _version(name) for name in PACKAGES},
        commit=git.stdout.strip() or "unknown",
        command=shlex.join([".venv/bin/python", "-m", program, *sys.argv[1:]]),
        scale=scale,
        backbone=backbone,
        date=date,
    )


def write(rows: list[Row], where: Machine, agreement: dict[str, float], folder: Path) -> None:
    """results.json and results.md."""
    folder.mkdir(parents=True, exist_ok=True)
    said: dict[str, Any] = {
        "machine": asdict(where) | {"busy": where.busy},
        "same_top_1": agreement,
        "rows": [
            asdict(row)
            | {
                "figure": row.figure,
                "reached": row.reached,
                "disturbed": row.disturbed,
                "goal": str(row.goal or ""),
            }
            for row in rows
        ],
    }
    (folder / "results.json").write_text(json.dumps(said, indent=1) + "\n", "utf-8")
    (folder / "results.md").write_text(markdown(rows, where, agreement), "utf-8")


def markdown(rows: list[Row], where: Machine, agreement: dict[str, float]) -> str:
    others = f"{where.load_before:.1f} processes of others wanted to run in the minute before"
    busy = f" **It was busy**: {others}." if where.busy else ""
    lines = [
        "# Results",
        "",
        f"Made by `{where.command}` on {where.date}, at `{where.commit}`, in {where.minutes:.0f} minutes.",
        "",
        f"- Machine: {where.cores} cores of {where.cpu}, {where.memory_gb} GB, {where.system}.{busy}",
        f"- Backbone: {where.backbone}. Scale: {where.scale}.",
        "- Versions: " + ", ".join(f"{name} {said}" for name, said in where.versions.items()) + ".",
        "- Same top-1: " + ", ".join(f"{pair} {share:.1%}" for pair, share in agreement.items()) + ".",
        "",
        *ABOUT,
        "",
        table(rows),
        "",
        "## Notes",
        "",
        *(f"- {row.name}: {note}." for row in rows for note in row.notes),
        "",
    ]
    return "\n".join(lines)


def table(rows: list[Row]) -> str:
    lines = [
        "| row | measured | compared | figure | goal | reached | others |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        values = "; ".join(f"{name} {shown(numbers)}" for name, numbers in row.values.items())
        figure = f"**{number(row.figure)}** {row.figure_unit}"
        if len(row.figures) > 1:
            figure += f" ({number(min(row.figures))}-{number(max(row.figures))})"
        reached = {True: "yes", False: "**no**", None: "-"}[row.reached]
        if row.goal and row.disturbed:
            reached = "unknown: disturbed"
        others = "-" if row.others is None else f"{row.others:.0%}"
        goal = str(row.goal) if row.goal else "-"
        lines.append(
            f"| {row.name} | {values} {row.unit} | {row.compared} | {figure} "
            f"| {goal} | {reached} | {others} |"
        )
    return "\n".join(lines)


def _version(name: str) -> str:
    try:
        return version(name)
    except ModuleNotFoundError:
        return "-"
