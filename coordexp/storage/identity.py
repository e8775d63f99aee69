"""Identity by contents: the hashes of runs, data and base models.

A file or a release counts by the sha256 of its bytes, not by where it lies. So two machines with
other mount points have the same runs, and a changed file under an equal path is another run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from coordexp.config.digests import digest, plain
from coordexp.config.schema import (
    Config,
    DataConfig,
    ModelConfig,
    TinyQwen3VLConfig,
    source_files,
)
from coordexp.config.setting_types import PICTURES, RELEASE, SPELLED_ONE_WAY
from coordexp.errors import UserError
from coordexp.storage.digest_store import known_sha256, known_sha256s
from coordexp.storage.files import sha256_of_tree
from coordexp.storage.runs import RESULTS
from coordexp.storage.typed import read_typed, write_typed

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RUN_IDENTITY = ("variant", "model", "data", "optim", "train")  # the groups that determine a result
SOURCES = "sources.json"  # beside data.json and base.json
PACKAGE = Path(__file__).resolve().parents[1]
SCENES_CODE = "coordexp/data/scenes.py"


@dataclass(frozen=True)
class Sources:
    """sources.json: what data or a base model were made from. It is no part of their identity.

    files: sha256 by path: of annotation files, record files, a release, or the code that draws.
    pictures: sha256 of source pictures, by the name of the written picture below images/.
    """

    files: dict[str, str]
    pictures: dict[str, str] = field(default_factory=dict)


def run_hash(cfg: Config) -> str:
    """Eight digits of the digest of everything that determines a run's result, except the seed."""
    return digest({group: by_contents(getattr(cfg, group)) for group in RUN_IDENTITY})[:8]


def data_path(cfg: Config) -> Path:
    """The directory of this configuration's records."""
    return RESULTS / "data" / f"{cfg.data.name}-{contents_hash(cfg.data)}"


def base_path(cfg: Config) -> Path:
    """The directory of this configuration's base model."""
    return RESULTS / "base" / f"{cfg.model.name}-{digest(base_contents(cfg))[:8]}"


def base_contents(cfg: Config) -> dict[str, Any]:
    """What determines the base model: its settings, and the annotations whose names it learns."""
    counted = by_contents(cfg.model)
    if isinstance(cfg.model, TinyQwen3VLConfig) and cfg.model.names_of_data:
        digests = (source_sha256(path) or path for path in source_files(cfg.data))
        counted["names_from"] = " ".join(digests)
    return counted


def contents_hash(settings: DataConfig | ModelConfig) -> str:
    """Eight digits of the digest of the data's or the base model's settings and sources."""
    return digest(by_contents(settings))[:8]


def by_contents(settings: DataclassInstance) -> dict[str, Any]:
    """Settings as they count: each file as its sha256, and no directory of pictures.

    A digest over all pictures would read every one of them each time a study is planned.
    `coordexp prepare` compares them instead (docs/data.md).

    Raises:
        UserError: a file cannot be read.
    """
    counted = plain(settings)
    for name, hint in get_type_hints(type(settings), include_extras=True).items():
        marks, path = getattr(hint, "__metadata__", ()), getattr(settings, name)
        if PICTURES in marks:
            counted[name] = None
        elif SPELLED_ONE_WAY in marks and path:
            counted[name] = source_sha256(path, is_release=RELEASE in marks) or path
    return counted


def source_sha256(path: str, is_release: bool = False) -> str | None:
    """sha256 of a file or release; of one that is gone, as it was when it was last read.

    None where nothing is known: the name of a model on a hub, or a path that is refused later.

    Raises:
        UserError: it cannot be read.
    """
    source = Path(path)
    try:
        if source.is_file():
            return known_sha256(source)
        if is_release and (source / "config.json").is_file():
            return release_sha256(source)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return None if source.exists() else _recorded_sha256(path)


def release_sha256(release: Path) -> str:
    """One digest over names and contents of the files of a release.

    Hidden files do not count: a download leaves its times there.
    """
    files = [f for f in release.iterdir() if f.is_file() and not f.name.startswith(".")]
    return sha256_of_tree(release, known_sha256s(files))


def scenes_code_sha256() -> str:
    """sha256 of the code that draws scenes: other code may draw other pictures."""
    return known_sha256(PACKAGE.parent / SCENES_CODE)


def _recorded_sha256(path: str) -> str | None:
    records = [*RESULTS.glob(f"data/*/{SOURCES}"), *RESULTS.glob(f"base/*/{SOURCES}")]
    for record in sorted(records, key=lambda found: found.stat().st_mtime_ns, reverse=True):
        if sha256 := read_sources(record.parent).files.get(path):
            return sha256
    return None


def read_sources(directory: Path) -> Sources:
    """Raises UserError: the file is missing or damaged."""
    return read_typed(directory / SOURCES, Sources)


def write_sources(directory: Path, sources: Sources) -> None:
    write_typed(directory / SOURCES, sources)
