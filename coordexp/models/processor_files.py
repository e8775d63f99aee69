"""The processor files of a checkpoint, such that `AutoProcessor.from_pretrained` loads them.

processor_config.json           settings of the image processor, and the class of the processor
tokenizer_config.json           the class again, and which token stands for a picture
video_preprocessor_config.json  as the release has it, where the model was made from one
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from coordexp.data.chat import IMAGE_TOKEN
from coordexp.errors import UserError
from coordexp.storage.files import DAMAGED, read_json, write_json

PROCESSOR_FILE = "processor_config.json"
VIDEO_FILE = "video_preprocessor_config.json"
# The classes of transformers that `AutoProcessor` makes. Qwen3-VL's own loads a video processor
# too, which needs torchvision and the settings of a release. PaddleOCR-VL's does the same with
# pictures (an image token for each cell), and knows no videos.
WITH_VIDEOS, PICTURES_ALONE = "Qwen3VLProcessor", "PaddleOCRVLProcessor"


def name_processor(directory: Path, videos: dict[str, Any] | None) -> None:
    """Complete the files that a processor has saved.

    Args:
        directory: of the checkpoint.
        videos: the settings of the release's video processor; None without a release.
    """
    kind = PICTURES_ALONE if videos is None else WITH_VIDEOS
    if videos is not None:
        write_json(directory / VIDEO_FILE, videos)
    for name, named in (
        (PROCESSOR_FILE, {"processor_class": kind}),
        ("tokenizer_config.json", {"processor_class": kind, "image_token": IMAGE_TOKEN}),
    ):
        write_json(directory / name, read_json(directory / name) | named)


def find_video_settings(path: str) -> dict[str, Any] | None:
    """The settings of a video processor in a directory or at a hub name; None without any.

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
    settings = read_json(Path(found))
    if not isinstance(settings, dict):
        raise UserError(f"{found}: holds no settings: {DAMAGED}")
    return settings
