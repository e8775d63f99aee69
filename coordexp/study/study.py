"""A study: runs to train or runs that exist already, and the rule that decides between them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coordexp.config.digests import plain
from coordexp.config.overrides import last_of_each_key
from coordexp.config.package import launcher
from coordexp.config.schema import ProbeConfig, RuleConfig
from coordexp.storage.identity import scenes_code_sha256
from coordexp.storage.runs import RESULTS, RunDirectory, probe_directory, run_directory
from coordexp.study.rollout_files import PROBE_FILE, RolloutFile
from coordexp.study.sources import Source

COMPARE_LOGS = "compare_logs"  # name of a study that compares runs and trains none


@dataclass(frozen=True)
class PlannedRun:
    """One training run of a study: a variant, a seed, and its Hydra overrides."""

    variant: str
    seed: int
    hash8: str
    overrides: tuple[str, ...]
    data: Path  # directory of the records
    annotations: tuple[str, ...]  # files that the records are made from
    pictures: tuple[str, ...]  # directories of their pictures that are set
    base: Path  # directory of the base model
    threads: int
    processes: int
    eval_steps: frozenset[int]

    @property
    def directory(self) -> RunDirectory:
        return run_directory(self.variant, self.seed, self.hash8)

    @property
    def cores(self) -> int:
        return self.threads * self.processes

    @property
    def launcher(self) -> str:
        """The command that runs a module."""
        return "python -m" if self.processes == 1 else launcher(self.processes)

    @property
    def key(self) -> str:
        return f"{self.variant}/s{self.seed}-{self.hash8}"


@dataclass(frozen=True)
class Vision:
    """Sizes that turn bins into pixels, where no manifest says them."""

    side_px: int  # of the validation images
    cell_px: int | None = None  # side of the square that one visual token covers


@dataclass(frozen=True)
class Study:
    """Runs to train, or sources that exist already, and the rule that decides between them."""

    name: str
    hash8: str
    seeds: int  # per variant
    runs: tuple[PlannedRun, ...]
    rule: RuleConfig
    sources: tuple[Source, ...] = ()
    vision: Vision | None = None
    probe: ProbeConfig | None = None  # the recipe of the Stage-2 probe
    controls: tuple[str, ...] = ()  # variants that are no candidates
    rollouts: tuple[RolloutFile, ...] = ()  # that were handed over with the sources

    @property
    def path(self) -> Path:
        return RESULTS / self.name / self.hash8

    @property
    def latest(self) -> Path:
        return RESULTS / self.name / "latest"

    @property
    def evidence(self) -> list[str]:
        """The files that the steps after training depend on."""
        files = [str(run.directory.manifest) for run in self.runs]
        return files + [str(source.log_path) for source in self.sources]

    @property
    def candidates(self) -> list[PlannedRun]:
        """The runs that may be recommended: all but the controls."""
        return [run for run in self.runs if run.variant not in self.controls]

    @property
    def decision_step(self) -> int | None:
        """The step at which the candidates will be compared if all of them finish.

        None if they share no eval step.
        """
        setting = self.rule.decision_step
        if setting != "last_common":
            return int(setting)
        if not self.candidates:
            return None
        common = frozenset.intersection(*(run.eval_steps for run in self.candidates))
        return max(common, default=None)

    @property
    def probes(self) -> list[str]:
        """The manifests of the candidates' probes, or the rollouts that were handed over."""
        if self.rollouts:
            return self.rollout_files
        step, recipe = self.decision_step, self.probe
        if step is None or recipe is None:
            return []
        return [
            str(probe_directory(run.directory, step, recipe) / "probe.json")
            for run in self.candidates
        ]

    @property
    def rollout_files(self) -> list[str]:
        """The files of the rollouts that were handed over, and of their ground truth."""
        files = [r.path / PROBE_FILE if r.path.is_dir() else r.path for r in self.rollouts]
        files += [r.ground_truth for r in self.rollouts if r.ground_truth is not None]
        return list(dict.fromkeys(map(str, files)))

    def run(self, variant: str, seed: int | str, hash8: str) -> PlannedRun:
        """The run with these names; the Snakefile's wildcards are strings."""
        wanted = (variant, int(seed), hash8)
        return next(run for run in self.runs if (run.variant, run.seed, run.hash8) == wanted)

    def overrides_for_probe(self, variant: str, seed: int | str, hash8: str) -> list[str]:
        """A run's overrides, and every setting of this study's probe, each key once.

        The run may have been trained for a study with another probe.
        """
        settings = plain(self.probe) if self.probe else {}
        recipe = [f"probe.{key}={value}" for key, value in settings.items()]
        return last_of_each_key([*self.run(variant, seed, hash8).overrides, *recipe])

    def overrides_for_data(self, hash8: str) -> tuple[str, ...]:
        """Overrides of any run that uses the records of this digest."""
        return self._run_with_data(hash8).overrides

    def annotations(self, hash8: str) -> list[str]:
        """The annotation files that the records of this digest are made from.

        None for generated images. Files that are gone are left out: once the records are made, they
        are not needed.
        """
        return [file for file in self._run_with_data(hash8).annotations if Path(file).exists()]

    def picture_directories(self, hash8: str) -> list[str]:
        """The directories of source pictures that are set for the records of this digest."""
        return [path for path in self._run_with_data(hash8).pictures if Path(path).is_dir()]

    def drawing_code(self, hash8: str) -> str:
        """sha256 of the code that draws the pictures of this digest; "" where none are drawn."""
        return "" if self._run_with_data(hash8).annotations else scenes_code_sha256()

    def overrides_for_base(self, hash8: str) -> tuple[str, ...]:
        """Overrides of any run that starts from the base model of this digest."""
        return next(run.overrides for run in self.runs if run.base.name.endswith(f"-{hash8}"))

    def _run_with_data(self, hash8: str) -> PlannedRun:
        return next(run for run in self.runs if run.data.name.endswith(f"-{hash8}"))
