"""A program's figures on disk: JSON, and a page with the machine, the command and tables."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.report import Machine

Table = list[str]  # lines of Markdown


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows),
    ]


def keep(
    folder: Path, name: str, *, title: str, about: str, where: Machine, said: dict[str, Any], parts: list[str]
) -> None:
    """Write `<name>.json` and `<name>.md`. Args: parts: of the page, below its heading, line by line."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": asdict(where) | {"busy": where.busy}, **said}, indent=1)
    (folder / f"{name}.json").write_text(text + "\n", "utf-8")
    lines = [
        f"# {title}",
        "",
        f"Made by `{where.command}` on {where.date}, at `{where.commit}`.",
        "",
        f"- Machine: {where.cores} cores of {where.cpu}, {where.memory_gb} GB, {where.system}.",
        f"- Backbone: {where.backbone}.",
        "- Versions: "
        + ", ".join(f"{package} {version}" for package, version in where.versions.items())
        + ".",
        "",
        about,
        "",
        *parts,
        "",
    ]
    (folder / f"{name}.md").write_text("\n".join(lines), "utf-8")


def verdict(*, reached: bool) -> str:
    return "reached" if reached else "**not reached**"
