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
    changed_pictures,
    convert_planned,
    keep_pictures_of,
    planned_conversion,
)
from coordexp.data.coco.conversion_stats import listed, summary
from coordexp.data.coco.samples import draw_samples
from coordexp.data.cut_tiles import cut_tiles
from coordexp.data.own_records import RecordPlan, copy_records, planned_records
from coordexp.data.parallel import n_cores
from coordexp.data.records import iter_records, write_records
from coordexp.data.scenes import make_scenes
from coordexp.storage.digest_store import known_sha256, known_sha256_directory, require_sha256
from coordexp.storage.files import locked, write_json
from coordexp.storage.identity import (
    SCENES_CODE,
    SOURCES,
    Sources,
    by_contents,
    data_path,
    read_sources,
    scenes_code_sha256,
)
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
    """data.json: the settings and files that records were made from, and what was made."""

    data: dict[str, str | int | float | bool | None]  # as `identity.by_contents` gives them
    train: SplitFacts
    val: SplitFacts
    code_sha256: str | None = None  # of the code that draws scenes


@dataclass(frozen=True)
class DataPlan:
    """Sources that are read and checked, and what writes the records to a directory.

    code_sha256: of the code that draws scenes; None for pictures that exist already.
    """

    sources: Sources
    write: Callable[[Path], None]
    code_sha256: str | None = None


def prepare_data(cfg: Config) -> Path:
    """Make the records of `cfg.data`; returns the manifest's path.

    Sources are read and checked before the directory is made, so a refusal leaves nothing behind.
    Records whose sources have not changed since are checked and kept.

    Raises:
        UserError: pictures, annotations or records break the contract, or what was made before is
            damaged.
    """
    out = data_path(cfg)
    settings = cfg.data
    gone = [path for path in map(Path, source_files(settings)) if not path.exists()]
    if gone and (out / "data.json").exists():
        print(f"{gone[0]} is gone: the records made from it stay as they are", file=sys.stderr)
        return out / "data.json"
    plan = planned(settings)
    with locked(out / ".lock", "being prepared", wait=True):
        if (out / "data.json").exists():
            changed = changes(out, plan.sources)
            if not changed:
                require_data(out)
                (out / "data.json").touch()
                return out / "data.json"
            print(f"{out}: {changed} since it was made: making it again", file=sys.stderr)
        is_new = {file.name for file in out.iterdir()} == {".lock"}
        try:
            plan.write(out)
        except NothingLeftError:
            if is_new:
                shutil.rmtree(out)
            raise
        write_typed(
            out / "data.json",
            DataManifest(
                data=by_contents(settings),
                train=split_facts(out, "train"),
                val=split_facts(out, "val"),
                code_sha256=plan.code_sha256,
            ),
        )
    return out / "data.json"


def changes(out: Path, sources: Sources) -> str:
    """What has changed of the sources of the finished records in `out`; "" if nothing has."""
    if not (out / SOURCES).exists():  # scenes of an earlier version
        return ""
    before = read_sources(out)
    if set(before.files.values()) != set(sources.files.values()):
        return f"{', '.join(sources.files)} changed"
    names = changed_pictures(before, sources)
    return f"{len(names)} source pictures changed, such as that of {names[0]}," if names else ""


def planned(settings: DataConfig) -> DataPlan:
    """Read and check the sources of the data.

    Raises:
        UserError: the sources cannot be used.
    """
    if isinstance(settings, CocoConfig):
        conversion = planned_conversion(settings, n_cores())
        return DataPlan(conversion.sources, partial(convert_records, settings, conversion))
    if isinstance(settings, RecordsConfig):
        records = planned_records(settings)
        return DataPlan(records.sources, partial(write_own_records, records))
    assert isinstance(settings, ScenesConfig)
    code_sha256 = scenes_code_sha256()
    sources = Sources({SCENES_CODE: code_sha256})
    return DataPlan(sources, partial(draw_records, settings, sources), code_sha256)


def draw_records(scenes: ScenesConfig, sources: Sources, out: Path) -> None:
    keep_pictures_of(sources, out)
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
    """Write records and pictures, conversion.json (counts by split) and samples.png (a preview).

    With `data.tile_px` the whole pictures and their records are written to `out`/whole, and the
    tiles that are cut from them to `out`.
    """
    whole = out / "whole" if settings.tile_px else out
    stats_by_split = convert_planned(settings, plan, whole, n_cores())
    report = {split: stats.report() for split, stats in stats_by_split.items()}
    if settings.tile_px:
        keep_pictures_of(plan.sources, out)
        for split, of_tiles in cut_tiles(settings, whole, out, n_cores()).items():
            report[split]["noted"] |= of_tiles["noted"]
            report[split]["tiles"] = of_tiles["tiles"]
    write_json(out / "conversion.json", report)
    draw_samples(out / "val.jsonl", out / "samples.png")
    for split, stats in stats_by_split.items():
        print(summary(split, stats), file=sys.stderr)
        if settings.tile_px:
            print(f"  tiles: {listed(report[split]['tiles'])}", file=sys.stderr)


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
