"""How well copies of a picture are told from other pictures, and what looking for them costs.

    python benchmarks/picture_copies.py NAME=DIRECTORY …

Each directory's JPEG and PNG pictures are one set, beside drawn sets that need no file. A false
positive is a pair of pictures of a set that counts as nearly the same; a copy is a picture that was
compressed, scaled or brightened again. Prints the table of docs/data.md; about a minute.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

from coordexp.data.coco.images import fitted_size, read_picture, resized, save_picture
from coordexp.data.coco.shared_pictures import Fingerprint, fingerprint, near_pairs

N_COPIED = 40  # pictures of a set that are copied in every way
N_DRAWN = 300


def copies(picture: Image.Image) -> Iterator[tuple[str, Image.Image, int]]:
    """Copies, each with its name and JPEG quality."""
    width, height = picture.size
    yield "quality 50", picture, 50
    yield "quality 30", picture, 30
    yield "half size", picture.resize((width // 2, height // 2), Image.Resampling.BICUBIC), 90
    yield "640 x 640", picture.resize((640, 640), Image.Resampling.BICUBIC), 90
    yield "224 x 224", picture.resize((224, 224), Image.Resampling.BILINEAR), 85
    yield "brighter by a tenth", ImageEnhance.Brightness(picture).enhance(1.1), 90


def shapes(directory: Path) -> None:
    """Drawn pictures of few coloured shapes on grey, of which many look alike."""
    for i in range(N_DRAWN):
        rng = np.random.default_rng(i)
        picture = Image.new("RGB", (640, 480), (int(rng.integers(90, 190)),) * 3)
        draw = ImageDraw.Draw(picture)
        for _ in range(int(rng.integers(1, 5))):
            w, h = rng.integers(80, 210), rng.integers(60, 160)
            x, y = rng.integers(0, 640 - w), rng.integers(0, 480 - h)
            shape = draw.ellipse if rng.integers(2) else draw.rectangle
            colour = ("red", "green", "blue", "yellow")[int(rng.integers(4))]
            shape((int(x), int(y), int(x + w), int(y + h)), fill=colour)
        picture.save(directory / f"{i}.png")


def noise(directory: Path) -> None:
    """Soft random colours."""
    for i in range(N_DRAWN):
        coarse = np.random.default_rng(i).integers(0, 256, (9, 11, 3), dtype=np.uint8)
        soft = Image.fromarray(coarse).resize((320, 256), Image.Resampling.BICUBIC)
        soft.save(directory / f"{i}.png")


def found_copies(paths: list[Path], prints: list[Fingerprint], scratch: Path) -> dict[str, float]:
    """Share of the copies that are found, by the kind of copy."""
    found: dict[str, list[bool]] = {}
    chosen = range(0, len(paths), max(1, len(paths) // N_COPIED))
    for i in chosen:
        for kind, copy, quality in copies(Image.open(paths[i]).convert("RGB")):
            copy.save(scratch / "copy.jpg", quality=quality)
            pair = [prints[i], fingerprint(scratch / "copy.jpg")]
            found.setdefault(kind, []).append(bool(list(near_pairs(pair))))
    return {kind: float(np.mean(hits)) for kind, hits in found.items()}


def milliseconds(paths: list[Path], scratch: Path) -> tuple[float, float]:
    """CPU time a picture: to look for copies, and to convert it."""
    started = time.process_time()
    for path in paths:
        fingerprint(path)
    looked = time.process_time()
    for path in paths:
        size = Image.open(path).size
        save_picture(
            resized(read_picture(path, size), fitted_size(*size, 786432)), scratch / "a.jpg"
        )
    converted = time.process_time()
    return 1e3 * (looked - started) / len(paths), 1e3 * (converted - looked) / len(paths)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="*", metavar="NAME=DIRECTORY")
    given = dict(word.split("=", 1) for word in parser.parse_args().sets)
    out = io.StringIO()
    with tempfile.TemporaryDirectory() as root:
        scratch = Path(root)
        for name, make in (("drawn shapes", shapes), ("drawn soft colours", noise)):
            given[name] = str(scratch / name)
            (scratch / name).mkdir()
            make(scratch / name)
        for name, directory in given.items():
            paths = sorted(p for p in Path(directory).rglob("*") if p.suffix in (".jpg", ".png"))
            if not paths:
                sys.exit(f"{directory}: holds no .jpg or .png picture")
            prints = [fingerprint(path) for path in paths]
            pairs = list(near_pairs(prints))
            shares = found_copies(paths, prints, scratch)
            looked, converted = milliseconds(paths[:100], scratch)
            n_pairs = len(paths) * (len(paths) - 1) // 2
            missed = ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items() if share < 1)
            print(
                f"| {name} | {len(paths)} | {len(pairs)} of {n_pairs:,} | {missed or 'all found'} "
                f"| {looked:.1f} | {converted:.1f} |",
                file=out,
            )
            for i, j in pairs[:10]:
                print(f"{name}: {paths[i].name} and {paths[j].name}", flush=True)
    print(
        "| pictures | n | pairs that count as copies | copies found | ms to look | ms to convert |"
    )
    print("| --- | ---: | ---: | --- | ---: | ---: |")
    print(out.getvalue(), end="")


if __name__ == "__main__":
    main()
