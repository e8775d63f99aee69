"""A figure of some annotated pictures, to inspect the data before training."""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from coordexp.data.coco.images import colour_of
from coordexp.data.records import Record, RecordObject, iter_records
from coordexp.storage.files import replacing

COLUMNS, ROWS = 4, 2
TILE_PX = 360
MARGIN_PX = 6
FONT_PX = 12


def draw_samples(records: Path, path: Path) -> None:
    """Eight pictures of a record file, evenly spaced through it, with their objects; a PNG."""
    n_records = sum(1 for _ in iter_records(records))
    n = min(n_records, COLUMNS * ROWS)
    chosen = {i * n_records // n for i in range(n)}
    tiles = []
    for i, record in enumerate(iter_records(records)):
        if i in chosen:
            tiles.append(tile(record, records.parent))
    side = TILE_PX + MARGIN_PX
    width = min(n, COLUMNS) * side + MARGIN_PX
    height = math.ceil(n / COLUMNS) * side + MARGIN_PX
    sheet = Image.new("RGB", (width, height), "white")
    for i, picture in enumerate(tiles):
        row, column = divmod(i, COLUMNS)
        sheet.paste(picture, (MARGIN_PX + column * side, MARGIN_PX + row * side))
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG")


def tile(record: Record, root: Path) -> Image.Image:
    """The picture, scaled to fit a tile, its objects outlined and named."""
    with Image.open(root / record.image) as opened:
        picture = opened.convert("RGB")
    scale = TILE_PX / max(picture.size)
    # A very long picture may have less than a pixel of height left.
    width, height = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    picture = picture.resize((width, height))
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(FONT_PX)
    for obj in record.objects:
        _draw_object(draw, obj, scale, font)
    return picture


def _draw_object(draw: ImageDraw.ImageDraw, obj: RecordObject, scale: float, font) -> None:
    x1, y1, x2, y2 = (value * scale for value in obj.box)
    points = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
    if obj.kind == "poly":
        vertices = zip(obj.pixels[0::2], obj.pixels[1::2], strict=True)
        points = [(x * scale, y * scale) for x, y in vertices]
    colour = colour_of(obj.desc)
    draw.line([*points, points[0]], fill="white", width=3)
    draw.line([*points, points[0]], fill=colour, width=1)
    name = draw.textbbox((x1 + 2, y1 + 1), obj.desc, font=font)
    draw.rectangle(name, fill="white")
    draw.text((x1 + 2, y1 + 1), obj.desc, fill=colour, font=font)
