"""The documents say what the code does: generated tables, named paths, named tests, links."""

import re

import pytest

from service.errors import PROBLEMS
from service.reference import DOCS, fill
from service.settings import Settings

ROOT = DOCS.parent
PAGES = [ROOT / "README.md", ROOT / ".github" / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


@pytest.mark.parametrize("name", ["README.md", "docs/settings.md", "docs/errors.md", "docs/keys.md"])
def test_what_is_generated_is_up_to_date(name):
    """After a change of settings, errors or modules: .venv/bin/python -m service.reference."""
    text = (ROOT / name).read_text("utf-8")
    assert fill(text) == text


def test_every_setting_and_every_code_is_documented():
    settings = (DOCS / "settings.md").read_text("utf-8")
    assert [name for name in Settings.model_fields if f"`POLYHEAD_{name.upper()}`" not in settings] == []
    errors = (DOCS / "errors.md").read_text("utf-8")
    assert [problem.code for problem in PROBLEMS.values() if f"`{problem.code}`" not in errors] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    links = LINK.findall(page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def tree_in(text: str) -> list[str]:
    """The paths of the annotated tree: indented by two spaces a level, the name first, the rest a remark."""
    (block,) = re.findall(r"```text\n(polyhead/\n.*?)```", text, re.DOTALL)
    paths, folders = list[str](), list[str]()
    for line in block.splitlines()[1:]:
        depth = (len(line) - len(line.lstrip())) // 2
        folders[depth - 1 :] = [line.split()[0]]
        paths.append("".join(folders))
    return paths


def test_every_path_of_the_tree_exists():
    paths = tree_in((ROOT / "README.md").read_text("utf-8"))
    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_test_that_the_invariants_name_exists():
    named = re.findall(r"`(tests/\S+\.py)::(test_\w+)`", (ROOT / "README.md").read_text("utf-8"))
    assert len(named) >= 8
    assert [name for path, name in named if f"def {name}(" not in (ROOT / path).read_text("utf-8")] == []


def test_every_decision_is_in_the_index():
    index = (DOCS / "decisions" / "README.md").read_text("utf-8")
    pages = {page.name for page in (DOCS / "decisions").glob("*.md")} - {"README.md"}
    assert pages == set(re.findall(r"\]\(([\w-]+\.md)\)", index))
