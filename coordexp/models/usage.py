"""How to use a checkpoint without this project: code for its model card."""

from __future__ import annotations

import json
from typing import Any

from coordexp.data.chat import Prompt

MOST_TOKENS = 2048  # of an answer
PICTURE = "picture.jpg"

DETECT = """\
from transformers import pipeline
detect = pipeline("image-text-to-text", {directory}, max_new_tokens={budget})
answer = detect(text={messages}, return_full_text=False)[0]["generated_text"]
"""

# Bin k of a side of n pixels is pixel k / 999 * (n - 1).
TO_PIXELS = f"""\
import json, re
from itertools import cycle
from PIL import Image
sides = Image.open("{PICTURE}").size
for found in json.loads(re.sub(r"<\\|coord_(\\d+)\\|>", r"\\1", answer))["objects"]:
    bins = found.get("bbox_2d") or found["poly"]  # x1, y1, x2, y2, or x, y of each vertex
    print(found["desc"], [round(k / 999 * (n - 1)) for k, n in zip(bins, cycle(sides))])
"""


def detect_code(directory: str, messages: list[dict[str, Any]]) -> str:
    """Three lines of transformers that put the answer for picture.jpg into `answer`.

    Args:
        directory: of the checkpoint, or its name on a hub.
        messages: as `picture_messages` gives them.
    """
    return DETECT.format(
        directory=json.dumps(directory, ensure_ascii=False),
        messages=json.dumps(messages, ensure_ascii=False),
        budget=MOST_TOKENS,
    )


def picture_messages(prompt: Prompt, picture: str = PICTURE) -> list[dict[str, Any]]:
    """The chat that asks for the objects of a picture, as transformers' processors take it."""
    content = [{"type": "image", "image": picture}, {"type": "text", "text": prompt.user}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if prompt.system is not None:
        system = [{"type": "text", "text": prompt.system}]
        messages.insert(0, {"role": "system", "content": system})
    return messages
