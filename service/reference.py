"""The tables in docs/ that are made from code: settings and errors.

`python -m service.reference` writes them between their markers; a test holds the files against the code.
"""

import inspect
import re
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from models.errors import PolyheadError
from service.errors import PROBLEMS, Problem
from service.settings import Settings

DOCS = Path(__file__).resolve().parents[1] / "docs"
MARKERS = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
INTERNAL = "the server failed; its log has the request's id"
# Defaults that differ from machine to machine.
WORDS_FOR_DEFAULTS = {"cache_dir": "`polyhead` in the user's cache folder"}


class Blank:
    """Stands in a message for what a real error names."""

    def __format__(self, spec: str) -> str:
        return "…"

    def __str__(self) -> str:
        return "…"

    __repr__ = __str__


def settings_table() -> str:
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    prefix = Settings.model_config["env_prefix"]
    for name, field in Settings.model_fields.items():
        default = WORDS_FOR_DEFAULTS.get(name) or shown_default(field.default)
        rows.append(f"| `{prefix}{name.upper()}` | {default} | {cell(field.description or '')} |")
    return "\n".join(rows)


def shown_default(default: Any) -> str:
    if default is PydanticUndefined:
        return "required"
    if default is None or default == ():
        return "none"
    return f"`{default}`"


def errors_table() -> str:
    rows = ["| status | code | meaning |", "|---|---|---|"]
    ordered = sorted(PROBLEMS.items(), key=lambda item: (item[1].status, item[1].code))
    rows += [
        f"| {problem.status} | `{problem.code}` | {cell(meaning(kind, problem))} |"
        for kind, problem in ordered
    ]
    return "\n".join(rows)


def meaning(kind: type[PolyheadError], problem: Problem) -> str:
    """The error's own message with blanks; where the message is free, its docstring or title."""
    if kind is PolyheadError:
        return INTERNAL
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    said = [parameter for parameter in parameters if parameter.kind is not parameter.VAR_POSITIONAL]
    if "__init__" not in vars(kind) or any(parameter.name == "detail" for parameter in said):
        text = vars(kind).get("__doc__") or problem.title
        return str(text).splitlines()[0].rstrip(".")
    positional = [Blank() for parameter in said if parameter.kind is not parameter.KEYWORD_ONLY]
    named = {parameter.name: Blank() for parameter in said if parameter.kind is parameter.KEYWORD_ONLY}
    return str(kind(*positional, **named))


def cell(text: str) -> str:
    return text.replace("|", r"\|")


TABLES = {"settings": settings_table, "errors": errors_table}


def fill(text: str) -> str:
    """The text with every generated section made anew."""
    return MARKERS.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", text)


def main() -> None:
    for path in sorted(DOCS.glob("*.md")):
        path.write_text(fill(path.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
