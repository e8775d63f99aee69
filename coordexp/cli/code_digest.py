"""A digest of the code that a function runs: the workflow uses it to detect changes."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]

# Statements as ruff writes them: `from coordexp.a.b import c, d`, in parentheses where it is long.
# A regular expression is used, because parsing every file would add half a second to each call of
# snakemake.
_STATEMENT = r"from coordexp\.([\w.]+) import (?:\(([^)]*)\)|(.+))"
_AT_TOP = re.compile(rf"^{_STATEMENT}", re.MULTILINE)
_ANYWHERE = re.compile(rf"^[ \t]*{_STATEMENT}", re.MULTILINE)


def code_digest(function: Callable[..., object]) -> str:
    """Digest of a function's source and of every file of this package that determines its result.

    These are the modules that it imports, directly or indirectly, and other files in their
    directories, such as templates. The sources are read; no module is imported.
    """
    digest = hashlib.sha256(inspect.getsource(function).encode())
    for path in reached_files(function):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def reached_files(function: Callable[..., object]) -> list[Path]:
    """The files of this package that determine a function's result, except its own module."""
    module = Path(inspect.getfile(function)).read_text()
    pending = [
        *_imports(_ANYWHERE, inspect.getsource(function)),
        *_imports(_AT_TOP, module),  # and not what other functions of the module import
    ]
    found: set[Path] = set()
    while pending:
        path = pending.pop()
        if path not in found:
            found.add(path)
            pending.extend(_imports_of_file(path))
    for directory in {path.parent for path in found}:
        found.update(_data_files(directory))
    return sorted(found)


@cache  # most files are reached by several steps
def _imports_of_file(path: Path) -> tuple[Path, ...]:
    return tuple(_imports(_ANYWHERE, path.read_text()))


def _imports(statements: re.Pattern[str], source: str) -> Iterator[Path]:
    """The modules of this package that some code imports."""
    for module, in_parentheses, on_one_line in statements.findall(source):
        names = re.findall(r"\w+", in_parentheses or on_one_line)
        # A name that is imported from a package may itself be a module.
        for candidate in (module, *(f"{module}.{name}" for name in names)):
            path = _PACKAGE.joinpath(*candidate.split(".")).with_suffix(".py")
            if path.is_file():
                yield path


@cache
def _data_files(directory: Path) -> tuple[Path, ...]:
    """The files below a package's directory that are not Python code."""
    if directory == _PACKAGE:  # in a wheel it also contains the settings and schemas
        return ()
    return tuple(
        path
        for path in directory.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    )
