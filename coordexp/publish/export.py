"""Write a checkpoint as a directory that others can use.

Weights, tokenizer, chat template and configuration are copied byte for byte. README.md becomes the
model card; the processor resizes pictures; export.json says where the files come from.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from coordexp.config.package import VERSION
from coordexp.data.chat import PROMPT, Prompt
from coordexp.data.prompt_file import read_prompt_file
from coordexp.errors import UserError
from coordexp.models.processor_files import VIDEO_FILE, find_video_settings, name_processor
from coordexp.models.usage import detect_code, picture_messages
from coordexp.publish.chosen import Chosen
from coordexp.publish.metadata import Known, completed
from coordexp.publish.model_card import model_card
from coordexp.publish.pictures import resize_pictures, trained_area
from coordexp.storage.files import (
    files_below,
    replacing_directory,
    sha256_file,
    sha256_of_tree,
    write_text,
)
from coordexp.storage.typed import read_typed, write_typed

EXPORT_FILE = "export.json"
# What a checkpoint holds beside a whole model: the merged adapter, of use with its own base alone.
LEFT_OUT = "adapter"


@dataclass(frozen=True)
class Exported:
    """export.json: where the files of an exported checkpoint come from.

    run: its variant, seed and digest; study: name and digest, None where the run was named.
    checkpoint_sha256: of the directory that was copied.
    files: sha256 by name, of every other file.
    """

    run: str
    step: int
    study: str | None
    checkpoint_sha256: str
    version: str
    files: dict[str, str]


def step_of_export(directory: Path) -> int | None:
    """The step of an exported checkpoint; None for one that no export wrote. Raises UserError."""
    path = directory / EXPORT_FILE
    return read_typed(path, Exported).step if path.is_file() else None


def export(chosen: Chosen, directory: Path, known: Known, name: str | None = None) -> str:
    """Write the directory, in place of an earlier export; returns the code that uses it.

    Args:
        directory: to write.
        known: what only the person who exports knows.
        name: on the hub, for the model card; None where it is not uploaded.

    Raises:
        UserError: the checkpoint is not the one that is recorded, or the directory holds something
            that no export wrote.
    """
    refuse_occupied(chosen, directory)
    path = chosen.config.model.get("path")
    known = completed(known, None if path is None else str(path))
    recorded = read_prompt_file(chosen.checkpoint)
    prompt = recorded.prompt if recorded else Prompt(PROMPT)
    messages = picture_messages(prompt)
    with replacing_directory(directory.resolve()) as temporary:
        sha256 = copy_checkpoint(chosen, temporary)
        write_processor(chosen, temporary)
        manifest = chosen.manifest
        area = trained_area(
            chosen.config.data,
            manifest.val_sides_px if manifest else None,
            manifest.cell_px if manifest else None,
        )
        if area is not None:
            resize_pictures(temporary, area)
        has_videos = (temporary / VIDEO_FILE).exists()
        # Whoever gets it has the directory's name, and not its path on this machine.
        code = detect_code(name or directory.resolve().name, messages)
        card = model_card(chosen, known, code, prompt, area, version("transformers"), has_videos)
        write_text(temporary / "README.md", card)
        files = {
            str(file.relative_to(temporary)): sha256_file(file) for file in files_below(temporary)
        }
        exported = Exported(chosen.key, chosen.step, chosen.study_key, sha256, VERSION, files)
        write_typed(temporary / EXPORT_FILE, exported)
    return detect_code(name or str(directory), messages)


def copy_checkpoint(chosen: Chosen, temporary: Path) -> str:
    """Copy the checkpoint, and compare what was copied with its record; returns its digest."""
    for file in files_below(chosen.checkpoint):
        target = temporary / file.relative_to(chosen.checkpoint)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    digests = {file: sha256_file(file) for file in files_below(temporary)}
    sha256 = sha256_of_tree(temporary, digests)
    if chosen.sha256 is not None and sha256 != chosen.sha256:
        raise UserError(
            f"{chosen.checkpoint}: its sha256 is {sha256[:12]}, recorded is {chosen.sha256[:12]}: "
            f"restore it, or remove {chosen.run.path} to train again"
        )
    shutil.rmtree(temporary / LEFT_OUT, ignore_errors=True)
    return sha256


def write_processor(chosen: Chosen, temporary: Path) -> None:
    """Name the processor, also of a checkpoint that an earlier version saved."""
    videos = find_video_settings(str(temporary))
    release = Path(str(chosen.config.model.get("path", "")))
    if videos is None and (release / VIDEO_FILE).is_file():
        videos = find_video_settings(str(release))
    name_processor(temporary, videos)


def refuse_occupied(chosen: Chosen, directory: Path) -> None:
    """Raises UserError: something is there that an export did not write, or a run is above it."""
    if chosen.run.path.resolve() in directory.resolve().parents:
        raise UserError(f"{directory}: lies in the run: give a directory outside {chosen.run.path}")
    if not directory.exists():
        return
    if not directory.is_dir():
        raise UserError(f"{directory}: is no directory: give another name")
    present = {str(file.relative_to(directory)): file for file in files_below(directory)}
    if not present:
        return
    if EXPORT_FILE not in present:
        raise UserError(
            f"{directory}: holds files that no export wrote, such as {min(present)}: "
            "give another directory"
        )
    advice = "give another directory, or remove this one"
    written = read_typed(directory / EXPORT_FILE, Exported, advice).files
    for name in sorted(present.keys() - {EXPORT_FILE}):
        if name not in written or sha256_file(present[name]) != written[name]:
            raise UserError(f"{present[name]}: was changed or added since the export: {advice}")
