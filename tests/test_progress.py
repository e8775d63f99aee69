"""What `snakemake` prints of a study: a line a job, what is left, and the log of what failed."""

from __future__ import annotations

import io
import json
import logging
import time
from pathlib import Path

import pytest

from coordexp.cli.jobs import Jobs
from coordexp.cli.progress import DryRun, StudyProgress, content_of
from coordexp.cli.remaining import in_words, left_together_s, position
from coordexp.cli.screen import FILE_EVERY_S, Screen
from coordexp.study.plan import plan_study


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "xterm")
    jobs = Jobs(plan_study({"experiment": "smoke"}), cores=2, logs="results/logs")
    jobs.planned = {"train": 3, "probe": 3, "total": 17}
    return jobs


def fields(rule: str, job_id: int, **wildcards: str) -> dict:
    log = [f"results/logs/{rule}.log"]
    named = {"rule_name": rule, "rule_msg": f"{rule}!", "jobid": job_id}
    return named | {"wildcards": wildcards, "log": log}


def start_training(jobs: Jobs, index: int, steps: list[int], s_per_step: float) -> None:
    """Start the training of a run, with a log up to now."""
    run = jobs.study.runs[index]
    jobs.start(fields("train", index, variant=run.variant, seed=str(run.seed), hash8=run.hash8))
    now_s = time.time()
    rows = [
        {"global_step/max_steps": f"{step}/12", "time_unix_s": now_s + s_per_step * step}
        for step in steps
    ]
    rows[-1]["eval_coord_diag/expected_bin_mae"] = 41.25
    run.directory.path.mkdir(parents=True)
    run.directory.log.write_text("".join(json.dumps(row) + "\n" for row in rows))


def record(event: str | None, message: str | None = None, **more: object) -> logging.LogRecord:
    made = logging.LogRecord("snakemake", logging.INFO, "", 0, message, (), None)
    made.__dict__.update(more, event=event)
    return made


def test_speed_is_that_of_this_start(tmp_path: Path) -> None:
    """A pause between two starts of a training does not count."""
    log = tmp_path / "logging.jsonl"
    times = {2: 100.0, 4: 102.0, 6: 5000.0, 8: 5004.0}
    rows = [{"global_step/max_steps": f"{s}/12", "time_unix_s": t} for s, t in times.items()]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"global_step/max_st')
    found = position(log, since_s=4990.0)
    assert (found.step, found.max_steps, found.s_per_step) == (8, 12, 2.0)
    assert position(log, since_s=6000.0).s_per_step is None
    assert position(tmp_path / "none", 0.0) is None


def test_nothing_is_estimated_before_it_was_measured(jobs: Jobs) -> None:
    assert jobs.left() == ""
    start_training(jobs, 0, [2], 10.0)
    assert jobs.left() == "", "one row tells no speed"


def test_estimate_is_of_measured_speeds(jobs: Jobs) -> None:
    start_training(jobs, 0, [2, 6], 10.0)
    start_training(jobs, 1, [2, 6], 30.0)
    # Left: 6 steps of 10 s, 6 of 30 s, and one training of 12 steps of 20 s, on two cores.
    assert jobs.left() == f"about {in_words((60 + 180 + 240) / 2)} of training left, then 3 probes"
    jobs.ended.append((jobs.start(fields("probe", 9)), 100.0))
    del jobs.running[9]
    assert jobs.left() == f"about {in_words((60 + 180 + 240 + 200) / 2)} left"
    jobs.cores = None
    assert jobs.left() == "", "nobody knows the queue of a cluster"


def test_line_of_a_running_training(jobs: Jobs) -> None:
    start_training(jobs, 0, [2, 6], 10.0)
    jobs.start(fields("data", 20, name="scenes", hash8="0badcafe"))
    study, training, data = jobs.lines(with_clocks=False)
    assert study.startswith("0 of 17 jobs done, about ")
    assert study.endswith("; logs: results/logs")
    variant = jobs.study.runs[0].variant
    assert training == f"  train {variant} s0: step 6/12, 0.1 steps/s, MAE 41.2 bins"
    assert data == "  data scenes"


def test_ended_training_tells_its_error(jobs: Jobs) -> None:
    start_training(jobs, 0, [2, 12], 10.0)
    variant = jobs.study.runs[0].variant
    assert jobs.end(0).strip() == f"1/17  train {variant} s0: 0 s, MAE 41.2 bins"
    start_training(jobs, 1, [2, 4], 10.0)
    assert jobs.end(1).endswith("diverged after step 4")


def test_terminal_draws_again_what_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "10")
    stream = Terminal()
    screen = Screen(stream)
    screen.show(["a" * 30, "b"])
    screen.say("stays")
    assert stream.getvalue() == "a" * 9 + "\nb" + "\r\x1b[1A\x1b[J" + "stays\n"


def test_file_takes_no_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    screen = Screen(stream)
    screen.show(["not yet"])
    now_s = time.monotonic() + FILE_EVERY_S
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    screen.show(["one", "  two"])
    screen.show(["three"])
    screen.say("four")
    told = stream.getvalue()
    assert told.endswith("one; two\nfour\n")
    assert "\r" not in told
    assert "\x1b" not in told


def test_failed_job_prints_its_whole_log(jobs: Jobs) -> None:
    log = Path("results/logs/audit.log")
    log.parent.mkdir(parents=True)
    lines = [f"line {i}" for i in range(500)]
    log.write_bytes(b" 1%\r50%\r99%\n" + "\n".join(lines).encode() + b"\nb\xffd\n")
    assert content_of(log).split("\n") == ["99%", *lines, "b\ufffdd"]
    stream = io.StringIO()
    StudyProgress(jobs, Screen(stream)).emit(record("job_error", **fields("audit", 3)))
    assert "FAILED  audit\nresults/logs/audit.log:\n99%\nline 0\n" in stream.getvalue()
    assert "line 499\n" in stream.getvalue()


def test_boilerplate_is_left_out_and_the_rest_is_not(jobs: Jobs) -> None:
    stream = io.StringIO()
    progress = StudyProgress(jobs, Screen(stream))
    progress.emit(record(None, "Select jobs to execute..."))
    progress.emit(record("shellcmd", "python -m"))
    progress.emit(record("error", "RuleException: told", exception="RuleException"))
    progress.emit(record("error", "WorkflowError: missing", exception="WorkflowError"))
    progress.emit(record(None, "Terminating processes on user request"))
    progress.close()
    assert stream.getvalue() == "WorkflowError: missing\nTerminating processes on user request\n"


def test_dry_run_has_one_table_and_a_line_a_job() -> None:
    stream = io.StringIO()
    dry = DryRun(Screen(stream))
    for made in (
        record("run_info", "Job stats: 3"),
        record("job_info", "", jobid=7, rule_msg="Train mixed."),
        record("job_info", "", jobid=0, rule_msg=None),
        record("run_info", "Job stats: 3"),
        record(None, "This was a dry-run"),
    ):
        dry.emit(made)
    assert stream.getvalue() == "Job stats: 3\nJob 7: Train mixed.\nThis was a dry-run\n"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (89, "89 s"), (90, "1.5 min"), (3000, "50 min"), (7800, "2 h 10 min")],
)
def test_durations_as_one_says_them(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_longest_job_bounds_what_is_left() -> None:
    assert left_together_s([100.0, 10.0], at_once=2) == 100.0
    assert left_together_s([60.0, 60.0, 60.0], at_once=2) == 90.0
    assert left_together_s([], at_once=2) == 0.0
