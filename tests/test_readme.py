"""README's map of the code is the list of packages and what each says of itself."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def packages() -> dict[str, str]:
    """The docstring of each package, by its path below coordexp/."""
    found = {}
    for init in sorted((ROOT / "coordexp").rglob("__init__.py")):
        if init.parent != ROOT / "coordexp":
            docstring = ast.get_docstring(ast.parse(init.read_text()))
            found[init.parent.relative_to(ROOT / "coordexp").as_posix()] = docstring or ""
    return found


def test_the_map_names_every_package_by_its_docstring():
    lines = [" ".join(line.split()) for line in README.splitlines()]
    for path, docstring in packages().items():
        assert f"{path.rpartition('/')[2]}/ {docstring}" in lines


def test_each_package_docstring_is_one_line():
    for path, docstring in packages().items():
        assert docstring, path
        assert "\n" not in docstring, path


def test_every_file_that_readme_names_exists():
    for word in README.replace("(", " ").replace(")", " ").split():
        name = word.strip("`,;:.|").partition("#")[0]
        if name.startswith(("coordexp/", "docs/", "benchmarks/", "workflow/")):
            assert (ROOT / name).exists(), name
