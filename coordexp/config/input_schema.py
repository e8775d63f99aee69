"""The settings of what a training starts from: base model and data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated

from coordexp.config.limits import INNER_FRACTION, POSITIVE_FRACTION, at_least, at_most, multiple_of
from coordexp.config.setting_types import (
    Count,
    Fraction,
    Images,
    Layers,
    Name,
    Objects,
    OptionalPath,
    PictureDirectory,
    Positive,
    ReleasePath,
    Seed,
    Width,
)


@dataclass(frozen=True)
class ModelConfig:
    """The setting of every base model: a name, which is part of its directory's name."""

    name: Name  # part of the directory's name


@dataclass(frozen=True)
class TinyQwen3VLConfig(ModelConfig):
    """A Qwen3-VL small enough for one CPU thread; built offline, from a seed."""

    init_seed: Seed  # of the random weights
    init_std: Positive  # standard deviation of the random weights
    text_hidden_size: Width  # width of the language model
    text_layers: Layers  # of the language model
    text_heads: Width  # attention heads of a layer
    text_intermediate_size: Width  # width inside a layer's MLP
    vision_hidden_size: Width  # width of the vision tower
    vision_layers: Layers  # of the vision tower
    vision_heads: Width  # attention heads of a layer
    vision_intermediate_size: Width  # width inside a layer's MLP
    patch_size: Annotated[int, at_least(1), at_most(1024)]  # px, of the vision tower
    # byte-level BPE, before special and coordinate tokens
    vocabulary_size: Annotated[int, at_least(1), at_most(10**6)]
    # The BPE learns the names of data.annotations, so a name is few tokens; false: those of the
    # generated scenes.
    names_of_data: bool
    coord_init_frequencies: Width  # of the smooth (Fourier) coordinate embeddings


class CoordInit(Enum):
    """How the embeddings of new coordinate tokens are initialised; both are smooth over bins."""

    fourier = "fourier"  # random Fourier features
    digits = "digits"  # the path from digit 0 to digit 9, plus Fourier features of half amplitude


@dataclass(frozen=True)
class PretrainedQwen3VLConfig(ModelConfig):
    """A Qwen3-VL checkpoint: a local directory or a hub name."""

    path: ReleasePath  # the release: a local directory or a hub name
    coord_init: CoordInit
    coord_init_frequencies: Width  # of the Fourier features


@dataclass(frozen=True)
class DataConfig:
    """The setting of every data set: a name, which is part of its directory's name."""

    name: Name  # part of the directory's name


@dataclass(frozen=True)
class ScenesConfig(DataConfig):
    """Generated images of coloured shapes."""

    seed: Seed  # of everything that is drawn
    train_images: Images  # pictures to train on
    val_images: Images  # pictures to evaluate on
    image_size: Annotated[int, multiple_of(32), at_most(8192)]  # px, square
    min_objects: Objects  # shapes in a picture, at least
    max_objects: Objects  # shapes in a picture, at most
    min_side: Annotated[float, INNER_FRACTION]  # of a shape's box, as a fraction of the image side
    max_side: Annotated[float, INNER_FRACTION]  # the largest, likewise
    cut: Fraction  # share of widths, and of heights, that the picture's border cuts at one end


class Geometry(Enum):
    """How an object of real data is written."""

    bbox = "bbox"  # always as its box
    poly_prefer = "poly_prefer"  # as its polygon if it has one of few enough vertices, else its box


class ObjectOrder(Enum):
    """The order in which the objects of an image are written."""

    yx = "yx"  # by (y1, x1)
    random = "random"  # shuffled once, from the data's seed and the image's id


class MissingPictures(Enum):
    """What happens where the file of an annotated image is not found."""

    refuse = "refuse"  # nothing is converted
    skip = "skip"  # the image is left out, counted and named
    draw = "draw"  # its annotated shapes are drawn, to rehearse before the download


class BoxFormat(Enum):
    """What the four numbers of a `bbox` are: their layout, and their unit if it is not px.

    cxcywh is centre and size; bins are 0 … 999, thousandths 0 … 1000 of the picture's side
    (coordexp/data/coordinate_forms.py).
    """

    xywh = "xywh"
    xyxy = "xyxy"
    yxyx = "yxyx"
    cxcywh = "cxcywh"
    xywh_fraction = "xywh_fraction"
    xyxy_fraction = "xyxy_fraction"
    yxyx_fraction = "yxyx_fraction"
    cxcywh_fraction = "cxcywh_fraction"
    xywh_percent = "xywh_percent"
    xyxy_percent = "xyxy_percent"
    yxyx_percent = "yxyx_percent"
    cxcywh_percent = "cxcywh_percent"
    xywh_bins = "xywh_bins"
    xyxy_bins = "xyxy_bins"
    yxyx_bins = "yxyx_bins"
    cxcywh_bins = "cxcywh_bins"
    xywh_thousandths = "xywh_thousandths"
    xyxy_thousandths = "xyxy_thousandths"
    yxyx_thousandths = "yxyx_thousandths"
    cxcywh_thousandths = "cxcywh_thousandths"


class TileTurns(Enum):
    """How training tiles are turned, one of these at random. Validation tiles are never turned."""

    none = "none"  # not at all
    mirror = "mirror"  # left to right, or not
    all = "all"  # also upside down and by 90 degrees: microscopes, satellites


@dataclass(frozen=True)
class CocoConfig(DataConfig):
    """COCO or LVIS annotations and their images (docs/data.md)."""

    seed: Seed  # of split, samples and random order
    annotations: OptionalPath  # one file, split by val_fraction; or one file for each split
    train_annotations: OptionalPath  # the file of the train split
    val_annotations: OptionalPath  # the file of the val split
    # share of the images that becomes val, where one file is split
    val_fraction: Annotated[float, INNER_FRACTION]
    images: PictureDirectory  # directory of the images; null: beside their annotation file
    train_pictures: PictureDirectory  # directory of one split's images, instead of `images`
    val_pictures: PictureDirectory  # likewise, of the val split
    missing: MissingPictures
    train_images: Annotated[int | None, at_least(1)]  # largest number of images; null: all
    val_images: Annotated[int | None, at_least(1)]  # likewise, of the val split
    box_format: BoxFormat
    check_boxes: bool  # refuse boxes that look like another format
    allow_shared_pictures: bool  # between train and val: the same, nearly the same, or augmented
    geometry: Geometry
    max_vertices: Annotated[int, at_least(3)]  # of a polygon, after simplification
    min_polygon_iou: Annotated[float, POSITIVE_FRACTION]  # simplified against annotated polygon
    max_objects: Count  # an image with more is left out
    order: ObjectOrder
    pixel_budget: Annotated[int, at_least(1024, "a cell of 32 x 32")]  # px of an image
    # Side of the square tiles that are cut from each image, in px as the model sees them; null: no
    # tiles, the model sees whole images.
    tile_px: Annotated[int | None, multiple_of(32), at_most(8192)]
    tile_objects: Positive  # what a tile covers: so many times the side of the median object
    tile_train: Images  # tiles drawn at random from the train images
    tile_val: Annotated[int | None, at_least(1)]  # largest number of tiles of val; null: all
    tile_turns: TileTurns
    # Each channel of an image that is cut gets the mean 0.5 and this standard deviation, of 0 … 1;
    # null: as it is.
    tile_contrast: Annotated[float | None, INNER_FRACTION]
    # share of an object's box in a tile from which on it is an object of the tile
    tile_min_visible: Annotated[float, POSITIVE_FRACTION]


@dataclass(frozen=True)
class RecordsConfig(DataConfig):
    """Record files and their images, as `coordexp validate` passes them (docs/data.md)."""

    seed: Seed  # of the split and the samples
    records: OptionalPath  # one file, split by val_fraction; or one file for each split
    train_records: OptionalPath  # the file of the train split
    val_records: OptionalPath  # the file of the val split
    # share of the records that becomes val, where one file is split
    val_fraction: Annotated[float, INNER_FRACTION]
    train_images: Annotated[int | None, at_least(1)]  # largest number of images; null: all
    val_images: Annotated[int | None, at_least(1)]  # likewise, of the val split
    allow_shared_pictures: bool  # between train and val: the same, nearly the same, or augmented


def source_files(data: DataConfig) -> tuple[str, ...]:
    """The annotation or record files that the data are made from; none for generated images."""
    if isinstance(data, CocoConfig):
        files = (data.annotations, data.train_annotations, data.val_annotations)
    elif isinstance(data, RecordsConfig):
        files = (data.records, data.train_records, data.val_records)
    else:
        return ()
    return tuple(file for file in files if file)


def picture_directories(data: DataConfig) -> tuple[str, ...]:
    """The directories of source pictures that are set."""
    if not isinstance(data, CocoConfig):
        return ()
    directories = (data.images, data.train_pictures, data.val_pictures)
    return tuple(directory for directory in directories if directory)
