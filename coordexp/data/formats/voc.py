"""Pascal VOC: an XML file a picture, with `filename`, `size` and an `object` for each box.

`difficult`, `truncated` and `occluded` become attributes of the COCO annotation. Outlines and parts
of objects are not read, and counted.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element

from coordexp.data.formats.dataset import (
    Dataset,
    DroppedShapeError,
    Picture,
    Shape,
    Source,
    named,
    number,
    picture_of,
    upright,
)
from coordexp.data.formats.pixels import with_edges
from coordexp.data.formats.xml_file import read_xml
from coordexp.errors import UserError

FLAGS = ("difficult", "truncated", "occluded")
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_voc(source: Source) -> Dataset:
    """Raises UserError: a file is not valid XML, or names no picture."""
    dataset = Dataset()
    splits = image_sets(source)
    for file in source.files:
        root = read_xml(file)
        if root.tag != "annotation":
            raise UserError(f"{file}: its root is <{root.tag}>, Pascal VOC has <annotation>")
        name = (root.findtext("filename") or "").strip() or file.stem
        sides = (root.findtext("size/width"), root.findtext("size/height"))
        if source.pictures.find(name, file) is None and source.pictures.find(file.stem, file):
            name = file.stem  # the file was renamed together with its picture
        if picture := picture_of(source, dataset, name, file, sides):
            shapes = shapes_of(root, dataset)
            dataset.pictures.append(Picture(*picture, shapes, splits.get(file.stem, "")))
    if source.path.is_dir():  # of a single file the others are not meant
        for stem in sorted(splits.keys() - {file.stem for file in source.files}):
            dataset.dropped["picture of ImageSets/Main without an XML file"] += 1
            dataset.notes.append(f"{stem}: named in {splits[stem]}.txt, and has no XML file")
    return with_edges(dataset, source)


def image_sets(source: Source) -> dict[str, str]:
    """The split of each picture by the stem of its file, from ImageSets/Main/{train,val,test}.txt.

    `trainval` holds both, and is used for neither.
    """
    splits: dict[str, str] = {}
    stems = {file.stem for file in source.files}
    for split in ("test", "val", "train"):
        for base in {file.parent for file in source.files}:
            listed = base.parent / "ImageSets" / "Main" / f"{split}.txt"
            if listed.is_file():
                text = listed.read_text(encoding="utf-8", errors="replace")
                for line in filter(None, map(str.strip, text.split("\n"))):
                    # A name with blanks, or a name and a flag.
                    splits[line if line in stems else line.split()[0]] = split
    return splits


def shapes_of(root: Element, dataset: Dataset) -> list[Shape]:
    shapes = []
    for entry in root.findall("object"):
        dataset.dropped["part of an object"] += len(entry.findall("part"))
        if entry.find("polygon") is not None:
            dataset.dropped["outline (its box is kept)"] += 1
        with dataset.counting_dropped():
            shapes.append(shape_of(entry))
    return shapes


def shape_of(entry: Element) -> Shape:
    """The box as the file has it; `with_edges` makes it COCO's."""
    name = named(entry.findtext("name"))
    box = entry.find("bndbox")
    if box is None:
        raise DroppedShapeError("rotated box" if entry.find("robndbox") is not None else "no box")
    corners = upright(*(number(box.findtext(corner)) for corner in CORNERS))
    attributes = {flag: True for flag in FLAGS if (entry.findtext(flag) or "").strip() == "1"}
    return Shape(name, corners, attributes=attributes)
