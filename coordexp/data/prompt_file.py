"""prompt.json of a checkpoint that was evaluated: the prompt it was given, and why that one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coordexp.data.chat import Prompt
from coordexp.storage.typed import read_typed, write_typed

PROMPT_FILE = "prompt.json"
OWN = "this project"  # source of what a checkpoint does not name


@dataclass(frozen=True)
class PromptFile:
    """prompt.json: texts, and the source of each: a file, an option, or this project.

    The chat template is in chat_template.jinja beside it.
    """

    user: str
    system: str | None
    user_source: str
    system_source: str | None  # None without a system prompt
    template_source: str

    @property
    def prompt(self) -> Prompt:
        return Prompt(self.user, self.system)


def read_prompt_file(checkpoint: Path) -> PromptFile | None:
    """The prompt of a checkpoint; None if it is asked this project's own.

    Raises:
        UserError: the file is damaged.
    """
    path = checkpoint / PROMPT_FILE
    return read_typed(path, PromptFile) if path.exists() else None


def write_prompt_file(checkpoint: Path, found: PromptFile) -> None:
    write_typed(checkpoint / PROMPT_FILE, found)
