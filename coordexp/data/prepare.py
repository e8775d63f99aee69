"""From a data setting to record files: results/data/<name>-<hash8>/{train,val}.jsonl and
data.json.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from coordexp.config.digests import group_hash, plain
from coordexp.config.schema import (
    CocoConfig,
    Config,
    DataConfig,
    RecordsConfig,
    ScenesConfig,
    source_files,
)
from coordexp.data.coco.annotations import coco_records
from coordexp.data.coco.conversion import (
    NothingLeftError,
    Plan,
    convert_planned,
    planned_conversion,
)
from coordexp.data.coco.conversion_stats import summary
from coordexp.data.coco.samples import draw_samples
from coordexp.data.own_records import RecordPlan, copy_records, planned_records
from coordexp.data.parallel import n_cores
from coordexp.data.records import iter_records, write_records
from coordexp.data.scenes import make_scenes
from coordexp.storage.digest_store import known_sha256, known_sha256_directory, require_sha256
from coordexp.storage.files import locked, write_json
from coordexp.storage.runs import data_directory
from coordexp.storage.typed import read_typed, write_typed


@dataclass(frozen=True)
class SplitFacts:
    """Size and digests of the training or the validation records."""

    images: int
    objects: int
    records_sha256: str
    images_sha256: str  # of the directory of the images


@dataclass(frozen=True)
class DataManifest:
    """data.json: the settings that records were made from, and what was made."""

    data: dict[str, str | int | float | bool | None]  # the configuration's `data`
    train: SplitFacts
    val: SplitFacts


def data_path(cfg: Config) -> Path:
    """Where the records of this configuration lie."""
    return data_directory(cfg.data.name, group_hash(cfg.data))


def prepare_data(cfg: Config) -> Path:
    """Make the records of `cfg.data`; returns the manifest's path.

    Sources are read and checked before the directory is made, so a refusal leaves nothing behind.

    Raises:
        UserError: pictures, annotations or records break the contract.
    """
    out = data_path(cfg)
    settings = cfg.data
    gone = [path for path in map(Path, source_files(settings)) if not path.exists()]
    if gone and (out / "data.json").exists():
        print(f"{gone[0]} is gone: the records made from it stay as they are", file=sys.stderr)
        return out / "data.json"
    write = planned(settings)
    with locked(out / ".lock", "being prepared", wait=True):
        is_new = {file.name for file in out.iterdir()} == {".lock"}
        try:
            write(out)
        except NothingLeftError:
            if is_new:
                shutil.rmtree(out)
            raise
        write_typed(
            out / "data.json",
            DataManifest(
                data=plain(cfg.data), train=split_facts(out, "train"), val=split_facts(out, "val")
            ),
        )
    return out / "data.json"


def planned(settings: DataConfig) -> Callable[[Path], None]:
    """Read and check the sources of the data; returns what writes the records to a directory.

    Raises:
        UserError: the sources cannot be used.
    """
    if isinstance(settings, CocoConfig):
        return partial(convert_records, settings, planned_conversion(settings, n_cores()))
    if isinstance(settings, RecordsConfig):
        return partial(write_own_records, planned_records(settings))
    assert isinstance(settings, ScenesConfig)
    return partial(draw_records, settings)


def draw_records(scenes: ScenesConfig, out: Path) -> None:
    for split, n_images in (("train", scenes.train_images), ("val", scenes.val_images)):
        annotations = make_scenes(scenes, out, split, n_images)
        write_records(out / f"{split}.jsonl", coco_records(annotations, out))


def write_own_records(plan: RecordPlan, out: Path) -> None:
    """Copy records and pictures; conversion.json and samples.png as for annotations."""
    copy_records(plan, out)
    report = {
        split: {**counts, "noted": plan.noted[split]} for split, counts in plan.counts.items()
    }
    write_json(out / "conversion.json", report)
    draw_samples(out / "val.jsonl", out / "samples.png")
    for split, entries in plan.splits.items():
        told = f"{split}: {len(entries)} records"
        dropped = [f"{n} {reason}" for reason, n in plan.counts[split].items() if n]
        print(told + (f"; left out: {', '.join(dropped)}" if dropped else ""), file=sys.stderr)
        for what, n in plan.noted[split].items():
            print(f"  {n} {what}", file=sys.stderr)


def convert_records(settings: CocoConfig, plan: Plan, out: Path) -> None:
    """Write records and pictures, conversion.json (counts by split) and samples.png (a preview)."""
    stats_by_split = convert_planned(settings, plan, out, n_cores())
    write_json(
        out / "conversion.json", {split: stats.report() for split, stats in stats_by_split.items()}
    )
    draw_samples(out / "val.jsonl", out / "samples.png")
    print(
        "\n".join(summary(split, stats) for split, stats in stats_by_split.items()), file=sys.stderr
    )


def read_data_manifest(path: Path) -> DataManifest:
    """Raises UserError: the file is missing or damaged."""
    return read_typed(path, DataManifest)


def require_data(out: Path) -> None:
    """Refuse records or pictures that are not those that data.json records.

    Raises:
        UserError: a file is missing, changed or damaged.
    """
    manifest = read_data_manifest(out / "data.json")
    advice = f"restore it, or remove {out} and make the data again with `coordexp prepare`"
    for split, facts in (("train", manifest.train), ("val", manifest.val)):
        require_sha256(out / f"{split}.jsonl", facts.records_sha256, "data.json", advice)
        require_sha256(out / "images" / split, facts.images_sha256, "data.json", advice)


def split_facts(out: Path, split: str) -> SplitFacts:
    n_objects = [len(record.objects) for record in iter_records(out / f"{split}.jsonl")]
    return SplitFacts(
        images=len(n_objects),
        objects=sum(n_objects),
        records_sha256=known_sha256(out / f"{split}.jsonl"),
        images_sha256=known_sha256_directory(out / "images" / split),
    )
