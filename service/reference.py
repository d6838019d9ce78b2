"""The parts of the documents that are made from code: the tables of settings, errors and scopes, the tree.

`python -m service.reference` writes them between their markers; a test holds the files against the code.
"""

import ast
import inspect
import re
from pathlib import Path
from typing import Any

from fastapi.routing import APIRoute
from pydantic_core import PydanticUndefined

from models.errors import PolyheadError
from service.errors import PROBLEMS, Problem
from service.routes import ROUTERS
from service.settings import Settings
from service.store.records import SCOPES
from service.web.scopes import NEEDED

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
REMARK_COLUMN = 28
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


def scopes_table() -> str:
    """Scope by scope, in the order of the routes."""
    rows = ["| scope | request |", "|---|---|"]
    for scope in SCOPES:
        rows += [
            f"| `{scope}` | `{method} {route.path}` |"
            for router in ROUTERS
            for route in router.routes
            if isinstance(route, APIRoute) and NEEDED.get(route.operation_id or "") == scope
            for method in sorted(route.methods or ())
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


# What the tree shows, in order; modules and packages below `service` and `models` speak for themselves.
TREE = {
    "service/": "",
    "models/": "",
    "tests/unit/": "one module at a time, without a network",
    "tests/integration/": "routes, engine and trainer over real stores and a tiny backbone",
    "tests/e2e/": "real processes: the demo, this page's walk-through, kill -9, SIGTERM",
    "tests/faults/": "kill -9, SIGSTOP, cuts and full disks on a cluster under traffic; make chaos: longer",
    "tests/k8s/": "mistakes planted in manifests, Dockerfile and images, each found",
    "docs/adaptation.md": "the strategies, their options, how they are served",
    "docs/offline-lab.md": "a tiny network learns new figures: the taught transfer and its exercises",
    "bench/": "make bench: Polyhead against the machine's limit and a plain LitServe app, side by side",
    "docs/benchmarks/": "what it measured, on what, and what profiling found",
    "k8s/": "kustomize: base, overlays embedded, scale-out and gpu, alerts, dashboard; checks, image too",
    "Dockerfile": "the image, for CPUs and for CUDA",
    "docs/kubernetes.md": "from an empty cluster to a prediction, and on",
    "docs/scaling.md": "one replica, ten, a thousand: what bounds them, what they cost, and bulk work on Ray",
    "docs/runbooks.md": "what to do at each alert",
    "docs/backups.md": "backup, restore, verify; when deleted bytes go",
    "docs/keys.md": "who may do what: keys, scopes, tenants, peppers",
    "docs/settings.md": "every setting",
    "docs/errors.md": "every error code",
    "docs/decisions/": "what a newcomer would question, with what was measured",
    ".github/CONTRIBUTING.md": "set-up, habits, how to add a route, a backbone, a strategy",
    ".ci/run": "what CI runs",
    "Makefile": "install, demo, test, check, k8s-check, image-check, bench, serve, lock",
    "pyproject.toml": "dependencies and the settings of every tool",
}


def tree() -> str:
    """The checkout, a line a path, each with what it is for."""
    lines = ["```text", "polyhead/"]
    for path, remark in TREE.items():
        if remark:
            lines.append(tree_line(1, path, remark))
            continue
        folder = ROOT / path
        lines.append(tree_line(1, path, first_line(folder / "__init__.py")))
        packages = sorted(each.parent for each in folder.glob("*/__init__.py"))
        modules = sorted(each for each in folder.glob("*.py") if each.name != "__init__.py")
        lines += [tree_line(2, f"{each.name}/", first_line(each / "__init__.py")) for each in packages]
        lines += [tree_line(2, each.name, first_line(each)) for each in modules]
    return "\n".join([*lines, "```"])


def tree_line(depth: int, name: str, remark: str) -> str:
    return f"{'  ' * depth}{name}".ljust(REMARK_COLUMN) + remark.replace("`", "")


def first_line(module: Path) -> str:
    said = ast.get_docstring(ast.parse(module.read_text("utf-8"))) or ""
    return re.split(r"[.;] |\n", said, maxsplit=1)[0].rstrip(".:")


SECTIONS = {"settings": settings_table, "errors": errors_table, "scopes": scopes_table, "tree": tree}


def fill(text: str) -> str:
    """The text with every generated section made anew."""
    return MARKERS.sub(lambda found: f"{found[1]}{SECTIONS[found[2]]()}\n{found[3]}", text)


def main() -> None:
    for path in [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]:
        path.write_text(fill(path.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
