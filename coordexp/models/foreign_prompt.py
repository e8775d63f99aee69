"""The chat template and prompt of a checkpoint that another program trained.

    template       --template, else of chat_template.jinja, chat_template.json (as processors were
                   saved before) or tokenizer_config.json, else this project's
    system prompt  --system, else `system` of ms-swift's args.json, in the checkpoint or in the
                   directory of the run above it, else none
    user prompt    --prompt, else this project's: no trainer saves it

A prompt.json, which an evaluation wrote, comes before args.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordexp.data.chat import PROMPT
from coordexp.data.prompt_file import OWN, PROMPT_FILE, PromptFile, read_prompt_file
from coordexp.errors import UserError
from coordexp.models.processor import CHAT_TEMPLATE
from coordexp.storage.files import read_bytes, read_json

SWIFT_ARGUMENTS = "args.json"
TEMPLATE_KEY = "chat_template"
GIVEN_SYSTEM = '--system TEXT (--system "" for none)'


@dataclass(frozen=True)
class GivenPrompt:
    """What the user gave; None where the checkpoint's own counts. An empty text is one."""

    user: str | None = None
    system: str | None = None
    template: Path | None = None


@dataclass(frozen=True)
class FoundPrompt:
    template: str
    recorded: PromptFile

    def __str__(self) -> str:
        """One line: what is used and where it comes from."""
        found = self.recorded
        system = f"system prompt of {found.system_source}" if found.system else "no system prompt"
        user = f"user prompt of {found.user_source} ({_shortened(found.user)})"
        if found.user_source == OWN:
            user += ", because the checkpoint names none: --prompt gives the one of its training"
        return f"chat template of {found.template_source}, {system}, {user}"


def find_prompt(directories: list[Path], given: GivenPrompt) -> FoundPrompt:
    """The prompt of a checkpoint.

    Args:
        directories: the checkpoint; an adapter's directory stands before its base model's.
        given: what the user gave comes first.

    Raises:
        UserError: a file cannot be read, or is damaged.
    """
    template, template_source = CHAT_TEMPLATE, OWN
    user, user_source = PROMPT, OWN
    system, system_source = None, None
    for directory in reversed(directories):
        if given.template is None:
            template, template_source = stored_template(directory) or (template, template_source)
        if given.system is None and (text := swift_system(directory)) is not None:
            system, system_source = text, SWIFT_ARGUMENTS
        if (recorded := read_prompt_file(directory)) is not None:
            user, user_source = recorded.user, PROMPT_FILE
            system, system_source = recorded.system, PROMPT_FILE
    if given.template is not None:
        template, template_source = read_text(given.template), "--template"
    if given.user is not None:
        user, user_source = given.user, "--prompt"
    if given.system is not None:
        system, system_source = given.system or None, "--system"
    if system is None:
        system_source = None
    return FoundPrompt(
        template, PromptFile(user, system, user_source, system_source, template_source)
    )


def stored_template(directory: Path) -> tuple[str, str] | None:
    """A checkpoint's chat template and the file that holds it."""
    path = directory / "chat_template.jinja"
    if path.is_file():
        return read_text(path), path.name
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (directory / name).is_file():
            content = read_json(directory / name, "mend it, or give --template FILE")
            stored = content.get(TEMPLATE_KEY) if isinstance(content, dict) else None
            if template := _default(stored):
                return template, name
    return None


def _default(stored: Any) -> str | None:
    """The template itself, or the one named `default` of several."""
    if isinstance(stored, list):
        entries = [entry for entry in stored if isinstance(entry, dict)]
        named = [entry.get("template") for entry in entries if entry.get("name") == "default"]
        stored = named[-1] if named else None
    return stored if isinstance(stored, str) and stored else None


def swift_system(checkpoint: Path) -> str | None:
    """The system prompt that ms-swift trained with, of the checkpoint's or its run's args.json.

    Raises:
        UserError: the file is damaged, or holds something else than a text.
    """
    for directory in (checkpoint, checkpoint.resolve().parent):
        path = directory / SWIFT_ARGUMENTS
        if path.is_file():
            content = read_json(path, f"mend it, or give {GIVEN_SYSTEM}")
            system = content.get("system") if isinstance(content, dict) else None
            if system is not None and not isinstance(system, str):
                raise UserError(f"{path}: its system prompt is no text: give {GIVEN_SYSTEM}")
            return system or None
        if not checkpoint.name.startswith("checkpoint-"):
            break
    return None


def given_text(argument: str | None, option: str) -> str | None:
    """The text of an option: itself, or with @FILE the file's, without its last line ends.

    Raises:
        UserError: the file cannot be read as text.
    """
    if argument is None or not argument.startswith("@"):
        return argument
    path = Path(argument[1:])
    if not path.is_file():
        raise UserError(f"{option} {argument}: no such file")
    return read_text(path).rstrip("\r\n")


def read_text(path: Path) -> str:
    """Raises UserError: the file is missing, or is not UTF-8."""
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from error


def _shortened(text: str, characters: int = 60) -> str:
    """The text in quotes, on one line; a long one is cut."""
    line = " ".join(text.split())
    return f'"{line}"' if len(line) <= characters else f'"{line[:characters]}…"'
