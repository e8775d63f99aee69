"""The map of the code says of each package what it says of itself; links lead somewhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAP = (ROOT / "docs/code.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *ROOT.glob("*/README.md")]


def packages() -> dict[str, str]:
    """The docstring of each package, by its path below coordexp/."""
    found = {}
    for init in sorted((ROOT / "coordexp").rglob("__init__.py")):
        if init.parent != ROOT / "coordexp":
            docstring = ast.get_docstring(ast.parse(init.read_text()))
            found[init.parent.relative_to(ROOT / "coordexp").as_posix()] = docstring or ""
    return found


def test_the_map_names_every_package_by_its_docstring():
    lines = [" ".join(line.split()) for line in MAP.splitlines()]
    for path, docstring in packages().items():
        assert f"{path.rpartition('/')[2]}/ {docstring}" in lines


def test_each_package_docstring_is_one_line():
    for path, docstring in packages().items():
        assert docstring, path
        assert "\n" not in docstring, path


def test_every_file_that_the_map_names_exists():
    for word in MAP.replace("(", " ").replace(")", " ").split():
        name = word.strip("`,;:.|").partition("#")[0]
        if name.startswith(("coordexp/", "docs/", "benchmarks/", "workflow/")):
            assert (ROOT / name).exists(), name


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_each_link_of_a_page_leads_to_a_file_and_heading(page):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        name, _, heading = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name}: {target}"
        if heading:
            headings = re.findall(r"(?m)^#+ (.*)$", file.read_text())
            assert heading in map(anchor, headings), f"{page.name}: {target}"


def test_the_index_names_every_page():
    index = (ROOT / "docs/README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index, page.name
