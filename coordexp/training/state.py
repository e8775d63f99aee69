"""The trainer's resumable state in one file: a sha256, then the output of torch.save."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from coordexp.errors import UserError
from coordexp.storage.files import read_with_checksum, write_with_checksum

# What torch raises for other content than its own.
BROKEN = (
    pickle.UnpicklingError,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a state of tensors, numbers, strings and containers of these."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_with_checksum(path, buffer.getvalue())


def load_state(path: Path) -> dict[str, Any]:
    """Read a state that `save_state` wrote.

    Raises:
        UserError: the file's content does not have the digest that was written with it, or is no
            state.
    """
    advice = "remove it to train this run again from step 0"
    payload = read_with_checksum(path, advice)
    try:
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except BROKEN as error:
        raise UserError(f"{path}: not the state of a training: {advice}") from error
    if not isinstance(state, dict):
        raise UserError(f"{path}: not the state of a training: {advice}")
    return state
