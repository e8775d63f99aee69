"""Pictures of every kind, upright and resized; those that are refused; and those that are drawn."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from coco_files import picture
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from coordexp.data.coco.images import (
    CELL_PX,
    colour_of,
    fitted_size,
    read_picture,
    rendered,
    resized,
    save_picture,
)
from coordexp.data.pictures import MAX_SOURCE_PX, ORIENTATION, LeftOutError

BUDGET = 768 * 32 * 32


# --- sizes ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "fitted"),
    [
        ((640, 480), (640, 480)),
        ((640, 427), (640, 416)),
        ((500, 333), (512, 320)),
        ((1, 1), (32, 32)),
        ((3000, 2000), (1056, 704)),
        ((100_000, 10), (24576, 32)),
    ],
)
def test_sides_are_multiples_of_a_cell_within_the_budget(size, fitted):
    assert fitted_size(*size, BUDGET) == fitted
    assert fitted_size(*size[::-1], BUDGET) == fitted[::-1]


@given(st.integers(2, 5000), st.integers(2, 5000), st.integers(1024, 2 * BUDGET))
def test_sizes_equal_qwens_processor_where_it_keeps_the_budget(width, height, budget):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    w, h = fitted_size(width, height, budget)
    assert w % CELL_PX == h % CELL_PX == 0
    assert 0 < w * h <= budget
    try:
        oracle = smart_resize(height, width, factor=CELL_PX, min_pixels=1, max_pixels=budget)
    except ValueError:  # longer than 200 times its height
        return
    if oracle[0] * oracle[1] <= budget and min(width, height) > CELL_PX / 2:
        assert (w, h) == oracle[::-1]


def test_a_picture_of_the_right_size_is_not_touched():
    original = Image.new("RGB", (64, 32))
    assert resized(original, (64, 32)) is original
    assert resized(original, (32, 96)).size == (32, 96)


# --- reading ----------------------------------------------------------------

GRADIENT = np.linspace(0, 255, 64 * 32).reshape(32, 64).astype(np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "RGBA", "LA", "I;16", "YCbCr"])
def test_every_kind_of_picture_becomes_rgb(tmp_path, mode):
    grey = Image.fromarray(GRADIENT)
    made = (
        Image.fromarray(GRADIENT.astype(np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
    )
    made.save(tmp_path / "a.tiff")
    found = read_picture(tmp_path / "a.tiff", (64, 32))
    assert (found.mode, found.size) == ("RGB", (64, 32))
    tolerance = 255 if mode == "1" else 6
    assert np.abs(np.asarray(found).astype(int) - GRADIENT[..., None]).max() <= tolerance


def with_orientation(path, orientation: int, size=(64, 32)):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return picture(path, size, exif=exif, quality=95)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_annotated_size_tells_whether_exif_turns_a_picture(tmp_path, orientation):
    path = with_orientation(tmp_path / "a.jpg", orientation)
    stored = np.asarray(Image.open(path).convert("RGB"))
    assert (np.asarray(read_picture(path, (64, 32))) == stored).all()
    turns = {
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a),
    }
    if orientation in turns:
        assert (np.asarray(read_picture(path, (32, 64))) == turns[orientation](stored)).all()
    else:
        with pytest.raises(LeftOutError) as left:
            read_picture(path, (32, 64))
        assert left.value.reason == "picture of another size"


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_picture_of_16_bits_is_turned_as_one_of_8(tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    for suffix in ("png", "tiff"):
        Image.fromarray(GRADIENT).save(tmp_path / f"8.{suffix}", exif=exif)
        Image.fromarray(GRADIENT.astype(np.uint16) * 256 + 77).save(
            tmp_path / f"16.{suffix}", exif=exif
        )
    upright = np.asarray(read_picture(tmp_path / "8.png", (32, 64)))
    stored = np.asarray(read_picture(tmp_path / "8.png", (64, 32)))
    assert (upright.shape, stored.shape) == ((64, 32, 3), (32, 64, 3))
    assert (np.asarray(read_picture(tmp_path / "16.png", (32, 64))) == upright).all()
    assert (np.asarray(read_picture(tmp_path / "16.png", (64, 32))) == stored).all()
    for bits in (8, 16):
        assert (np.asarray(read_picture(tmp_path / f"{bits}.tiff", (32, 64))) == upright).all()
        # Pillow hands out upright ones alone.
        with pytest.raises(LeftOutError, match="32 x 64 px, annotated as 64 x 32"):
            read_picture(tmp_path / f"{bits}.tiff", (64, 32))


def test_what_is_written_carries_no_orientation(tmp_path):
    turned = read_picture(with_orientation(tmp_path / "a.jpg", 6), (32, 64))
    for name in ("b.jpg", "b.png"):
        save_picture(turned, tmp_path / name)
        with Image.open(tmp_path / name) as found:
            assert found.size == (32, 64)
            assert found.getexif().get(ORIENTATION) is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jpg", "b.jpg", "b.png"]


def png_header(width: int, height: int) -> bytes:
    """A whole PNG of hardly any bytes whose header claims that size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(10_000, 5_000), (8_000, 5_001), (20_000, 20_000)])
def test_a_bomb_is_refused_by_its_header(tmp_path, monkeypatch, size):
    (tmp_path / "a.png").write_bytes(png_header(*size))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(LeftOutError, match="pixels") as left:
        read_picture(tmp_path / "a.png", size)
    assert left.value.reason == "picture too large"
    assert size[0] * size[1] > MAX_SOURCE_PX


def test_pictures_that_cannot_be_read_are_left_out(tmp_path):
    whole = picture(tmp_path / "a.jpg").read_bytes()
    png = picture(tmp_path / "a.png").read_bytes()
    for content in (
        b"",
        b"no picture",
        whole[: len(whole) // 2],
        png[: len(png) // 2],
        png_header(64, 64),
        whole[:3],
    ):
        (tmp_path / "b.jpg").write_bytes(content)
        with pytest.raises(LeftOutError) as left:
            read_picture(tmp_path / "b.jpg", (64, 64))
        assert left.value.reason == "picture not readable"
    with pytest.raises(LeftOutError, match="64 x 64 px, annotated as 64 x 32"):
        read_picture(tmp_path / "a.jpg", (64, 32))


@pytest.mark.parametrize("suffix", ["dds", "tga", "eps", "ico"])
def test_formats_that_data_sets_do_not_come_in_are_left_out(tmp_path, suffix):
    """Of some, damage raises what no other format does; EPS starts another program."""
    whole = picture(tmp_path / f"a.{suffix}").read_bytes()
    for n, content in enumerate(
        (whole, whole[: len(whole) // 2], whole[:80] + bytes(8) + whole[88:])
    ):
        (tmp_path / f"{n}.jpg").write_bytes(content)
        with pytest.raises(LeftOutError, match="none of JPEG, PNG") as left:
            read_picture(tmp_path / f"{n}.jpg", (64, 64))
        assert left.value.reason == "picture not readable"


@pytest.mark.parametrize(
    "suffix", ["jpg", "png", "gif", "bmp", "webp", "ppm", "tiff", "mpo", "jp2", "avif"]
)
def test_no_damage_raises_anything_else(tmp_path, suffix):
    try:
        whole = picture(tmp_path / f"a.{suffix}").read_bytes()
    except (OSError, KeyError):
        pytest.skip(f"Pillow writes no {suffix} here")
    (tmp_path / "whole").write_bytes(whole)
    assert read_picture(tmp_path / "whole", (64, 64)).size == (64, 64)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        damaged = bytearray(whole)
        for _ in range(int(rng.integers(1, 10))):
            damaged[rng.integers(min(len(damaged), 200))] = rng.integers(256)
        (tmp_path / "b").write_bytes(
            damaged[: rng.integers(1, len(damaged) + 1)] if seed % 3 == 0 else damaged
        )
        try:
            assert read_picture(tmp_path / "b", (64, 64)).size == (64, 64)
        except LeftOutError:
            continue


# --- drawing ----------------------------------------------------------------


def test_shapes_are_drawn_where_they_are_annotated_small_ones_on_top():
    large, small = [(8, 8), (56, 8), (56, 56), (8, 56)], [(20, 20), (30, 20), (30, 30), (20, 30)]
    for shapes in ([("cup", [large]), ("bat", [small])], [("bat", [small]), ("cup", [large])]):
        drawn = rendered((64, 64), shapes, "a.jpg")
        assert drawn.getpixel((10, 10)) == drawn.getpixel((54, 54)) == colour_of("cup")
        assert drawn.getpixel((25, 25)) == colour_of("bat") != colour_of("cup")
        ground = drawn.getpixel((2, 2))
        assert ground == drawn.getpixel((62, 62)) not in (colour_of("cup"), colour_of("bat"))
        assert drawn.tobytes() == rendered((64, 64), shapes, "a.jpg").tobytes()
    assert rendered((64, 64), [], "a.jpg").tobytes() != rendered((64, 64), [], "b.jpg").tobytes()


def test_names_have_colours_of_their_own():
    colours = {colour_of(name) for name in map(str, range(200))}
    assert len(colours) > 180
    assert all(max(c) - min(c) > 60 for c in colours), "no name is as grey as the ground"
