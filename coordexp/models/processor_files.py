"""The processor files of a checkpoint, such that `AutoProcessor.from_pretrained` loads them.

processor_config.json           settings of the image processor, and the class of the processor
tokenizer_config.json           the class again, and which token stands for a picture
video_preprocessor_config.json  as the release has it, where the model was made from one
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from coordexp.data.chat import IMAGE_TOKEN
from coordexp.errors import UserError
from coordexp.storage.files import DAMAGED, read_bytes, read_json

PROCESSOR_FILE = "processor_config.json"
VIDEO_FILE = "video_preprocessor_config.json"
# The classes of transformers that `AutoProcessor` makes. Qwen3-VL's own loads a video processor
# too, which needs torchvision and the settings of a release. PaddleOCR-VL's does the same with
# pictures (an image token for each cell), and knows no videos.
WITH_VIDEOS, PICTURES_ALONE = "Qwen3VLProcessor", "PaddleOCRVLProcessor"


def name_processor(directory: Path, videos: bytes | None) -> None:
    """Complete the files that a processor has saved.

    Args:
        directory: of the checkpoint.
        videos: the file of the release's video processor; None without a release.

    Raises:
        UserError: a file is damaged.
    """
    kind = PICTURES_ALONE if videos is None else WITH_VIDEOS
    if videos is not None:
        (directory / VIDEO_FILE).write_bytes(videos)
    for name, named in (
        (PROCESSOR_FILE, {"processor_class": kind}),
        ("tokenizer_config.json", {"processor_class": kind, "image_token": IMAGE_TOKEN}),
    ):
        # As transformers writes it: a tokenizer may hold numbers that strict JSON cannot.
        content = json.dumps(read_settings(directory / name) | named, indent=2)
        (directory / name).write_text(content + "\n")


def find_video_settings(path: str) -> bytes | None:
    """The file of a video processor in a directory or at a hub name; None without any.

    Raises:
        UserError: the file is damaged.
    """
    found = cached_file(
        path,
        VIDEO_FILE,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if found is None:
        return None
    read_settings(Path(found))
    return read_bytes(Path(found))


def read_settings(path: Path) -> dict[str, Any]:
    """Raises UserError: the file is missing, or holds no JSON object."""
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise UserError(f"{path}: holds no settings: {DAMAGED}")
    return settings
