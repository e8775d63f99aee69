"""The trainer's resumable state in one file: a sha256, then the output of torch.save."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from coordexp.storage.files import read_with_checksum, write_with_checksum


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a state of tensors, numbers, strings and containers of these."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_with_checksum(path, buffer.getvalue())


def load_state(path: Path) -> dict[str, Any]:
    """Read a state that `save_state` wrote.

    Raises:
        UserError: the file's content does not have the digest that was written with it.
    """
    payload = read_with_checksum(path, "remove it to train this run again from step 0")
    return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
