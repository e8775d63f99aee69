"""What is checked of a YAML file before PyYAML reads it."""

from __future__ import annotations

from pathlib import Path

from coordexp.errors import UserError, require_regular

DEEPEST = 30  # open brackets; the files of this project have four


def check_yaml_file(path: Path) -> None:
    """Refuse what is not a file, and more open brackets than a configuration can have.

    Raises:
        UserError: nothing is there, it is not a file, or it is nested too deeply.
    """
    require_regular(path)
    if is_too_deep(path.read_bytes()):
        raise UserError(f"{path}: not a readable YAML file: it is nested too deeply")


def is_too_deep(text: bytes) -> bool:
    """Whether YAML has more open brackets than DEEPEST; those inside of text are counted too.

    PyYAML's time is quadratic in the nesting: 100,000 brackets take minutes.
    """
    depth = 0
    for byte in text:
        depth += (byte in b"[{") - (byte in b"]}")
        if depth > DEEPEST:
            return True
    return False
