"""The jobs of a study while Snakemake runs it: those that ended, those that run, what is left."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coordexp.cli.remaining import Position, in_words, left_together_s, position
from coordexp.study.study import Study


@dataclass(frozen=True)
class Job:
    """A job that was started."""

    rule: str
    wildcards: Mapping[str, str]
    is_target: bool  # it runs nothing
    started_s: float

    @property
    def label(self) -> str:
        """`train pure_ce s0`, `data scenes`, `audit`."""
        name = self.wildcards.get("variant") or self.wildcards.get("name") or ""
        seed = f"s{self.wildcards['seed']}" if "seed" in self.wildcards else ""
        return " ".join(word for word in (self.rule, name, seed) if word)


@dataclass
class Jobs:
    """What Snakemake has told of the jobs of a study.

    A log tells the speed of a training, a probe that ended how long probes take. Nothing is
    estimated of which nothing was measured.
    """

    study: Study
    cores: int | None  # that the jobs share; None on a cluster, whose queue nobody knows
    logs: str
    planned: dict[str, int] = field(default_factory=dict)  # by rule, and "total"
    running: dict[int, Job] = field(default_factory=dict)
    ended: list[tuple[Job, float]] = field(default_factory=list)  # with the seconds each took

    def start(self, fields: Mapping[str, Any]) -> Job:
        """A job was started, as the fields of its record say."""
        job = Job(
            rule=fields["rule_name"],
            wildcards=dict(fields.get("wildcards", {})),
            is_target=not fields["rule_msg"],
            started_s=time.time(),
        )
        self.running[fields["jobid"]] = job
        return job

    def end(self, job_id: int) -> str | None:
        """A job has ended well; returns the line that says so, None for a target."""
        job = self.running.pop(job_id)
        took_s = time.time() - job.started_s
        self.ended.append((job, took_s))
        if job.is_target:
            return None
        count = f"{len(self.ended)}/{self.planned['total']}"
        return f"{count:>7}  {job.label}: {in_words(took_s)}{self._result(job)}"

    def _result(self, job: Job) -> str:
        """How a training ended."""
        where = self._position(job)
        if where is None:
            return ""
        if where.step < where.max_steps:
            return f", diverged after step {where.step}"
        return "" if where.mae is None else f", MAE {where.mae:.1f} bins"

    def lines(self, with_clocks: bool) -> list[str]:
        """The study in one line, then one for each running job.

        Args:
            with_clocks: whether to say how long a job has run, which changes all the time.
        """
        left = self.left()
        first = f"{len(self.ended)} of {self.planned['total']} jobs done"
        first += f", {left}" if left else ""
        lines = [f"{first}; logs: {self.logs}"]
        for job in self.running.values():
            if not job.is_target:
                lines.append(f"  {self._line(job, with_clocks)}")
        return lines

    def _line(self, job: Job, with_clocks: bool) -> str:
        where = self._position(job)
        if where is None:
            since = f": {in_words(time.time() - job.started_s)}" if with_clocks else ""
            return job.label + since
        line = f"{job.label}: step {where.step}/{where.max_steps}"
        if where.s_per_step:
            line += f", {1 / where.s_per_step:.2g} steps/s"
        return line if where.mae is None else f"{line}, MAE {where.mae:.1f} bins"

    def left(self) -> str:
        """How long the rest takes, as far as it was measured; "" where that says nothing."""
        trainings, probes = self._trainings_left_s(), self._probes_left_s()
        if self.cores is None or trainings is None:
            return ""
        largest = max((run.cores for run in self.study.runs), default=1)
        at_once = max(1, self.cores // largest)
        if probes is not None:
            left_s = left_together_s([*trainings, *probes], at_once)
            return f"about {in_words(left_s)} left" if left_s else ""
        if not trainings:
            return ""
        left_s = left_together_s(trainings, at_once)
        return f"about {in_words(left_s)} of training left, then {self._n_left('probe')} probes"

    def _trainings_left_s(self) -> list[float] | None:
        """Seconds that each training still takes; None before any has shown its speed."""
        n_left = self._n_left("train")
        if not n_left:
            return []
        running = [p for job in self._of("train") if (p := self._position(job))]
        speeds = [p.s_per_step for p in running if p.s_per_step is not None]
        for job, took_s in self.ended:
            if job.rule == "train" and (p := self._position(job)):
                speeds.append(took_s / p.step)
        if not speeds:
            return None
        typical = sum(speeds) / len(speeds)
        left = [(p.s_per_step or typical) * (p.max_steps - p.step) for p in running]
        steps = [max(run.eval_steps) for run in self.study.runs]
        return left + [typical * sum(steps) / len(steps)] * (n_left - len(left))

    def _probes_left_s(self) -> list[float] | None:
        """Seconds that each probe still takes; None before one has ended."""
        n_left = self._n_left("probe")
        if not n_left:
            return []
        took = [took_s for job, took_s in self.ended if job.rule == "probe"]
        if not took:
            return None
        typical = sum(took) / len(took)
        left = [max(0.0, typical - (time.time() - job.started_s)) for job in self._of("probe")]
        return left + [typical] * (n_left - len(left))

    def _n_left(self, rule: str) -> int:
        """Jobs of a rule that have not ended."""
        return self.planned.get(rule, 0) - sum(job.rule == rule for job, _ in self.ended)

    def _of(self, rule: str) -> list[Job]:
        return [job for job in self.running.values() if job.rule == rule]

    def _position(self, job: Job) -> Position | None:
        """Where a job's training is; None for other jobs, and before the first row of its log."""
        if job.rule != "train":
            return None
        wildcards = job.wildcards
        run = self.study.run(wildcards["variant"], wildcards["seed"], wildcards["hash8"])
        return position(run.directory.log, job.started_s)
