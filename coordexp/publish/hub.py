"""Upload an exported directory to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

import httpx2
from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from coordexp.errors import UserError, first_line


def require_repository(name: str, option: str) -> None:
    """Refuse what no repository of the hub can be called: OWNER/NAME, or NAME of the oldest ones.

    Raises:
        UserError: the message starts with the option.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"{option} {name}: {first_line(error)}") from error


def require_hub(name: str) -> None:
    """Refuse what cannot be uploaded, before anything is written.

    Raises:
        UserError: `name` is no OWNER/NAME, the hub is switched off, or there is no token.
    """
    require_repository(name, "--push")
    if name.count("/") != 1:
        raise UserError(f"--push {name}: give OWNER/NAME")
    if constants.is_offline_mode():
        raise UserError(f"--push {name}: the hub is switched off (HF_HUB_OFFLINE=1): unset it")
    if get_token() is None:
        raise UserError(f"--push {name}: no token for the hub: `hf auth login`, or set HF_TOKEN")


def push(directory: Path, name: str, message: str) -> str:
    """Upload a directory as one commit; a repository that is new is private. Returns its address.

    Raises:
        UserError: the hub refuses it or cannot be reached.
    """
    api = HfApi()
    try:
        address = api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=directory, commit_message=message)
    except (httpx2.HTTPError, OSError) as error:
        raise UserError(
            f"--push {name}: the hub did not take it ({first_line(error)}): {directory} is "
            "complete, so start the same command again"
        ) from error
    return str(address)
