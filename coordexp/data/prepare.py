"""From a data setting to record files: results/data/<name>-<hash8>/{train,val}.jsonl and data.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from coordexp.config import group_hash, plain
from coordexp.data.coco import coco_records
from coordexp.data.records import read_records, write_records
from coordexp.data.scenes import make_scenes
from coordexp.files import locked, sha256_directory, sha256_file, write_json
from coordexp.runs import data_directory
from coordexp.schema import ScenesConfig


def data_path(cfg: DictConfig) -> Path:
    """Where the records of this configuration lie."""
    return data_directory(cfg.data.name, group_hash(cfg.data))


def prepare_data(cfg: DictConfig) -> Path:
    """Make the records of `cfg.data`; returns the manifest's path.

    Raises:
        UserError: a setting that cannot be drawn, or pictures and annotations that do not fit the contract.
    """
    out = data_path(cfg)
    scenes: ScenesConfig = OmegaConf.to_object(cfg.data)  # type: ignore[assignment]
    with locked(out / ".lock", "being prepared", wait=True):
        counts: dict[str, Any] = {}
        for split, n_images in (("train", scenes.train_images), ("val", scenes.val_images)):
            annotations = make_scenes(scenes, out, split, n_images)
            write_records(out / f"{split}.jsonl", coco_records(annotations, out))
            records = read_records(out / f"{split}.jsonl")
            counts[split] = {
                "images": len(records),
                "objects": sum(len(r.objects) for r in records),
                "records_sha256": sha256_file(out / f"{split}.jsonl"),
                "images_sha256": sha256_directory(out / "images" / split),
            }
        write_json(out / "data.json", {"data": plain(cfg.data), **counts})
    return out / "data.json"
