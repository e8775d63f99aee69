"""The trainer's resumable state in one file: a sha256, then the output of torch.save."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from coordexp.errors import UserError
from coordexp.storage.files import write_bytes

_DIGEST_BYTES = 32


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a state of tensors, numbers, strings and containers of these."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    write_bytes(path, hashlib.sha256(payload).digest() + payload)


def load_state(path: Path) -> dict[str, Any]:
    """Read a state that `save_state` wrote.

    Raises:
        UserError: the file's content does not have the digest that was written with it.
    """
    content = path.read_bytes()
    payload = content[_DIGEST_BYTES:]
    if hashlib.sha256(payload).digest() != content[:_DIGEST_BYTES]:
        raise UserError(
            f"{path}: damaged (its checksum does not match): remove it to train this run again "
            "from step 0"
        )
    return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
