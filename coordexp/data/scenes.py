"""Generated scenes: anti-aliased shapes on varied backgrounds, as PNGs and a COCO annotation file.

As in photographs, the border cuts some objects; the box of such an object ends there.

Every picture is a function of (seed, split, index), so drawing can be interrupted and continued.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from coordexp.config.schema import ScenesConfig
from coordexp.storage.files import write_json

COLOURS = {
    "red": (214, 48, 42),
    "green": (52, 158, 68),
    "blue": (44, 92, 206),
    "yellow": (240, 202, 52),
}
SHAPES = ("circle", "square", "triangle")
CATEGORIES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)

_SUPERSAMPLE = 4
_MAX_OVERLAP = 0.05  # intersection over the area of the smaller box
_PLACEMENT_TRIES = 50
_MAX_CUT = 0.4  # of a side, beyond the border; the centre of a shape is always visible

Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in px


@dataclass(frozen=True)
class Shape:
    category: int  # index into CATEGORIES
    box: Box  # of the whole shape; it may reach beyond the border

    @property
    def colour(self) -> tuple[int, int, int]:
        return COLOURS[CATEGORIES[self.category].split()[0]]

    @property
    def name(self) -> str:
        return CATEGORIES[self.category].split()[1]


def make_scenes(cfg: ScenesConfig, out: Path, split: str, n_images: int) -> Path:
    """Draw the missing pictures of a split and write its COCO annotation file; returns its path."""
    (out / "images" / split).mkdir(parents=True, exist_ok=True)
    for leftover in (out / "images" / split).glob("*.tmp"):  # of a killed run
        leftover.unlink()
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for index in tqdm(range(n_images), desc=f"scenes {split}", unit="img", mininterval=1.0):
        rng = np.random.default_rng([cfg.seed, ("train", "val").index(split), index])
        shapes = place_shapes(cfg, rng)
        file_name = f"images/{split}/{index:06d}.png"
        if not (out / file_name).exists():
            _save(draw_scene(cfg.image_size, shapes, rng), out / file_name)
        images.append(
            {"id": index, "file_name": file_name, "width": cfg.image_size, "height": cfg.image_size}
        )
        for shape in shapes:
            box = visible_box(shape, cfg.image_size)
            annotations.append(_annotation(len(annotations), index, shape.category, box))
    path = out / "annotations" / f"{split}.json"
    categories = [{"id": i, "name": name} for i, name in enumerate(CATEGORIES)]
    write_json(path, {"images": images, "annotations": annotations, "categories": categories})
    return path


def place_shapes(cfg: ScenesConfig, rng: np.random.Generator) -> list[Shape]:
    """Shapes whose boxes overlap at most _MAX_OVERLAP.

    Fewer than the randomly drawn number if the picture has no room for more.
    """
    shapes: list[Shape] = []
    last = cfg.image_size - 1
    for _ in range(int(rng.integers(cfg.min_objects, cfg.max_objects + 1))):
        cut = rng.uniform(size=2) < cfg.cut  # width, height: a retry must not change this share
        for _ in range(_PLACEMENT_TRIES):
            side = rng.uniform(cfg.min_side, cfg.max_side) * cfg.image_size
            aspect = math.exp(rng.uniform(-0.35, 0.35))
            w = min(side * math.sqrt(aspect), 0.9 * cfg.image_size)
            h = min(side / math.sqrt(aspect), 0.9 * cfg.image_size)
            x1, y1 = (_place(*side, last, rng) for side in zip((w, h), cut, strict=True))
            box = (round(x1, 2), round(y1, 2), round(x1 + w, 2), round(y1 + h, 2))
            if all(_overlap(box, other.box) <= _MAX_OVERLAP for other in shapes):
                shapes.append(Shape(int(rng.integers(len(CATEGORIES))), box))
                break
    return shapes


def _place(length: float, is_cut: bool, last: int, rng: np.random.Generator) -> float:
    """Where a width or height begins, in px: it lies within 0 … last, or is cut at one end."""
    free = last - length
    if not is_cut:
        return rng.uniform(0, free)
    beyond = rng.uniform(0, _MAX_CUT) * length
    return -beyond if rng.uniform() < 0.5 else free + beyond


def visible_box(shape: Shape, size: int) -> Box:
    """The box of what a picture of `size` px shows of a shape."""
    x1, y1, x2, y2 = shape.box
    last = float(size - 1)
    if shape.name == "triangle":  # what is left of its base is narrower
        narrower = max(0.0, y2 - size) / (y2 - y1) * (x2 - x1) / 2
        x1, x2 = round(x1 + narrower, 2), round(x2 - narrower, 2)
    return max(x1, 0.0), max(y1, 0.0), min(x2, last), min(y2, last)


def _overlap(a: Box, b: Box) -> float:
    """Intersection over the area of the smaller box."""
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return max(w, 0.0) * max(h, 0.0) / smaller


def draw_scene(size: int, shapes: list[Shape], rng: np.random.Generator) -> Image.Image:
    """The background with the shapes on it, anti-aliased by supersampling.

    Only the pixels around a shape's box are supersampled: all others would stay as they are.
    """
    picture = Image.fromarray(_background(size, rng))
    for shape in shapes:
        x1, y1, x2, y2 = shape.box
        left, top = math.floor(x1), math.floor(y1)
        width, height = math.floor(x2) + 1 - left, math.floor(y2) + 1 - top
        mask = Image.new("L", (width * _SUPERSAMPLE, height * _SUPERSAMPLE), 0)
        inside = (x1 - left, y1 - top, x2 - left, y2 - top)
        _draw_shape(ImageDraw.Draw(mask), shape.name, *(v * _SUPERSAMPLE for v in inside))
        picture.paste(shape.colour, (left, top), mask.resize((width, height), Image.Resampling.BOX))
    return picture


def _background(size: int, rng: np.random.Generator) -> np.ndarray:
    """A gradient between two greyish colours in a random direction, with coarse noise.

    It is grey in the middle of the range, where normalised pixels are near 0: then shapes stand out
    from the first step, and the models learn to see them sooner.
    """
    first, second = 128 + rng.uniform(-25, 25, (2, 3))
    angle = rng.uniform(0, 2 * math.pi)
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    blend = (math.cos(angle) * x + math.sin(angle) * y + 0.75) / 1.5
    picture = first + (second - first) * blend[..., None]  # [H, W, 3]
    coarse = rng.normal(0, 4, (size // 8, size // 8, 1)).repeat(8, 0).repeat(8, 1)
    return np.clip(picture + coarse, 0, 255).astype(np.uint8)


def _draw_shape(
    draw: ImageDraw.ImageDraw, name: str, x1: float, y1: float, x2: float, y2: float
) -> None:
    w, h = x2 - x1, y2 - y1
    if name == "circle":
        draw.ellipse((x1, y1, x2, y2), fill=255)
        return
    outline = _OUTLINES[name]
    draw.polygon([(x1 + u * w, y1 + v * h) for u, v in outline], fill=255)


_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": [(0, 0), (1, 0), (1, 1), (0, 1)],
    "triangle": [(0.5, 0), (1, 1), (0, 1)],
}


def _save(picture: Image.Image, path: Path) -> None:
    """Write a PNG to a temporary name and rename it. No fsync: it can be drawn again."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    picture.save(temporary, format="PNG", compress_level=1)
    os.replace(temporary, path)


def _annotation(annotation_id: int, image_id: int, category: int, box: Box) -> dict[str, object]:
    x1, y1, x2, y2 = box
    w, h = round(x2 - x1, 2), round(y2 - y1, 2)
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category,
        "bbox": [x1, y1, w, h],
        "area": round(w * h, 2),
        "iscrowd": 0,
    }
