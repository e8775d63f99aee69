"""Flip single bits in every kind of file of a smoke study: is each found before it has an effect?

    python benchmarks/bit_flips.py [--results DIRECTORY]

Makes a smoke study (or copies the results that are given), then flips one random bit at a time and
calls what reads the file next. A flip is *detected* if the reader refuses the file in one line,
*without effect* if the reader returns what it returned before, and *silent* otherwise. Writes the
table of docs/reliability.md.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from coordexp.analysis.recommendation.card import card
from coordexp.analysis.recommendation.findings import read_recommendation
from coordexp.cli.verify import STUDY_READERS, verify
from coordexp.config.compose import compose
from coordexp.config.digests import digest
from coordexp.config.schema import Config
from coordexp.detection.probe_manifest import read_probe_manifest
from coordexp.detection.probes import read_probe
from coordexp.errors import UserError
from coordexp.storage import digest_store
from coordexp.storage.digest_store import STORE, known_sha256
from coordexp.storage.files import sha256_file
from coordexp.storage.identity import base_path, data_path, read_sources
from coordexp.storage.manifest import read_manifest, require_checkpoint
from coordexp.storage.runs import RunDirectory
from coordexp.study.inputs import load_runs
from coordexp.training.state import load_state, save_state
from coordexp.training.train import input_digests

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/reliability.md"
START, END = "<!-- bit_flips.py -->\n", "<!-- end -->\n"
SMOKE = "experiment=smoke"
NO_READER = "no command: people look at it"


@dataclass(frozen=True)
class Kind:
    """A kind of file. `read` is what reads it next, and returns what it took from it."""

    name: str
    files: str  # below results
    reader: str
    read: Callable[[Path], object]
    is_verified: bool = True  # `coordexp verify` compares it


def kinds(cfg: Config, study: Path, probe: Path) -> list[Kind]:
    run = probe.parents[1]

    def inputs(_: Path) -> object:
        return asdict(input_digests(cfg, []))

    def checkpoint(file: Path) -> None:
        manifest = read_manifest(RunDirectory(run))
        assert manifest is not None
        require_checkpoint(RunDirectory(run), manifest, int(file.parent.name[-6:]))

    def runs(_: Path) -> object:
        return digest([repr(found) for found in load_runs(study)])

    def of_study(file: Path) -> object:
        return repr(STUDY_READERS[file.name](file.parent))

    def probed(_: Path) -> object:
        return repr(read_probe(probe))

    def shown(_: Path) -> object:
        return card(read_recommendation(study), study), runs(study)

    def digests(_: Path) -> object:
        digest_store._READ.clear()  # as in a process of its own
        for file in sorted(Path("results/base").rglob("*.*")):
            assert known_sha256(file) == sha256_file(file)
        return None

    base, data = (str(path.relative_to("results")) for path in (base_path(cfg), data_path(cfg)))
    this_run, this_probe, this_study = (
        str(path.relative_to("results")) for path in (run, probe, study)
    )
    train, probe_reader = "training, before its first step", "collect-probes"
    steps = "compare, collect-probes, recommend, report, MLflow"
    return [
        Kind("weights of the base model", f"{base}/model/model.safetensors", train, inputs),
        Kind("other files of the base model", f"{base}/model/*.j*", train, inputs),
        Kind("base.json", f"{base}/base.json", train, inputs),
        Kind("records", f"{data}/*.jsonl", train, inputs),
        Kind("pictures", f"{data}/images/*/*", train, inputs),
        Kind("data.json", f"{data}/data.json", train, inputs),
        Kind(
            "sources.json",
            f"{data}/sources.json",
            "prepare",
            lambda file: read_sources(file.parent),
        ),
        Kind("state", f"{this_run}/state/state.pt", "training, when it continues", load_digest),
        Kind(
            "weights of a checkpoint",
            f"{this_run}/checkpoints/*/*.safetensors",
            "probe, recommendation, MLflow",
            checkpoint,
        ),
        Kind(
            "other files of a checkpoint",
            f"{this_run}/checkpoints/*/*.j*",
            "probe, recommendation, MLflow",
            checkpoint,
        ),
        Kind("configuration of a run", f"{this_run}/config.yaml", steps, runs),
        Kind("log", f"{this_run}/logging.jsonl", steps, runs),
        Kind("token tables", f"{this_run}/eval/*.parquet", steps, runs),
        Kind(
            "run.json",
            f"{this_run}/run.json",
            "audit, probe, training",
            lambda file: read_manifest(RunDirectory(file.parent)),
        ),
        Kind(
            "probe.json",
            f"{this_probe}/probe.json",
            probe_reader,
            lambda file: read_probe_manifest(file),
        ),
        Kind("rollouts of a probe", f"{this_probe}/*/rollouts-*.jsonl", probe_reader, probed),
        Kind("losses of a probe by image", f"{this_probe}/images.parquet", probe_reader, probed),
        Kind("log of a probe", f"{this_probe}/probe.jsonl", probe_reader, probed),
        *(
            Kind(
                f"{name} of the study",
                f"{this_study}/{name}",
                "the next steps, `coordexp show`",
                of_study,
            )
            for name in STUDY_READERS
        ),
        Kind("recommendation.md, CSV", f"{this_study}/*.[mc]*", NO_READER, shown, False),
        Kind("report.html", f"{this_study}/report.html", NO_READER, shown, False),
        Kind("figures", f"{this_study}/figures/*.svg", NO_READER, shown, False),
        Kind("store of digests", STORE.name, "every check", digests, False),
    ]


def load_digest(file: Path) -> object:
    return {name: tensor.tolist() for name, tensor in load_state(file).items()}


def flipped(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def outcome(kind: Kind, file: Path, content: bytes, before: object, rng: random.Random) -> str:
    """The outcome of one flip; the file is restored."""
    file.write_bytes(flipped(content, rng))
    try:
        found = kind.read(file)
    except UserError:
        return "detected"
    finally:
        file.write_bytes(content)
    return "without effect" if found == before else "silent"


def is_verified(file: Path, content: bytes, rng: random.Random) -> bool:
    """Whether `coordexp verify` finds a flip."""
    file.write_bytes(flipped(content, rng))
    found = [entry for entry in verify(Path("results")) if entry.fault]
    file.write_bytes(content)
    return bool(found)


def campaign(kind: Kind, n_flips: int, rng: random.Random) -> tuple[Counter[str], bool]:
    files = sorted(path for path in Path("results").glob(kind.files) if path.is_file())
    assert files, f"no file is {kind.files}"
    counts: Counter[str] = Counter()
    for _ in range(n_flips):
        file = rng.choice(files)
        content = file.read_bytes()
        counts[outcome(kind, file, content, kind.read(file), rng)] += 1
    return counts, kind.is_verified and is_verified(files[0], files[0].read_bytes(), rng)


def make_results(given: Path | None) -> None:
    """Results of a smoke study in the working directory."""
    if given is None:
        command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile")]
        command += ["--cores", "2", "stage1_ablation", "--config", SMOKE]
        subprocess.run(command, check=True)
    else:
        shutil.copytree(given, "results", symlinks=True)


def table(rows: list[tuple[Kind, Counter[str], bool]]) -> str:
    lines = [
        "| file | read next by | flips | detected | without effect | silent | `coordexp verify` |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for kind, counts, verified in rows:
        columns = [counts.total(), counts["detected"], counts["without effect"], counts["silent"]]
        told = "finds it" if verified else ("misses it" if kind.is_verified else "")
        lines.append(f"| {kind.name} | {kind.reader} | {' | '.join(map(str, columns))} | {told} |")
    total = sum((counts for _, counts, _ in rows), Counter[str]())
    columns = [total.total(), total["detected"], total["without effect"], total["silent"]]
    return "\n".join([*lines, f"| all | | {' | '.join(map(str, columns))} | |"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, help="of a smoke study; it is copied")
    parser.add_argument("--flips", type=int, default=12, help="of each kind")
    arguments = parser.parse_args()
    given = arguments.results.resolve() if arguments.results else None
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        make_results(given)
        cfg = compose([SMOKE])
        study = next(path.parent for path in Path("results").glob("stage1_*/????????/audit.json"))
        probe = min(Path("results/runs").glob("*/*/stage2/*/probe.json")).parent
        save_state(probe.parents[1] / "state/state.pt", {"weights": torch.arange(10_000.0)})
        rows = [(kind, *campaign(kind, arguments.flips, rng)) for kind in kinds(cfg, study, probe)]
        os.chdir(ROOT)
    print(table(rows), end="")
    head, _, rest = PAGE.read_text().partition(START)
    PAGE.write_text(head + START + table(rows) + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
