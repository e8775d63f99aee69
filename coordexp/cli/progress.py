"""What a person sees while Snakemake runs a study: what ended, what runs, and how long it takes.

Snakemake tells of its jobs in log records, each with an event and the fields of that event. The
handlers below take the place of the one that prints them all. `snakemake --printshellcmds` keeps
that one.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

from coordexp.cli.jobs import Jobs
from coordexp.cli.main import main
from coordexp.cli.screen import Screen, clock
from coordexp.study.study import Study

SNAKEMAKES_OWN = "DefaultStreamHandler"
QUIET_OF_THE_PROFILE = {"HOST", "REASON"}  # of profiles/default
NOTHING_TO_DO = "Nothing to be done"
# How the messages begin that Snakemake prints at each call, and after a failed job.
BOILERPLATE = (
    *("Assuming unrestricted shared filesystem", "Building DAG of jobs", "Using shell: "),
    *("Conda environments: ignored", "Select jobs to execute", "Touching output file "),
    *("Removing output files of failed job", "Some jobs were triggered by provenance"),
    *("Shutting down, this might take some time", "Complete log(s): ", "Elapsed time: "),
    *("Cannot restore ", "WorkflowError:\nAt least one job did not complete"),
)
LAST_WORDS = ("Exiting because a job execution failed", "Terminating processes on user request")
# Records of these events are not printed as they are.
EVENTS = (
    *("workflow_started", "run_info", "job_info", "job_started", "job_finished", "job_error"),
    *("progress", "shellcmd", "resources_info", "rulegraph", "debug_dag"),
)
# Errors that repeat what the record of the failed job said.
TOLD_BY_JOB = ("RuleException", "CalledProcessError", "SpawnedJobError")
DRAW_EVERY_S = 2.0


class StudyProgress(logging.Handler):
    """A line for each job that has ended, and below them how far the study is."""

    def __init__(self, jobs: Jobs, screen: Screen) -> None:
        super().__init__()
        self._jobs, self._screen = jobs, screen
        self._end = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        event, fields = event_of(record), record.__dict__
        if event == "run_info":
            self._begin(fields["stats"])
        elif event == "job_info":
            self._jobs.start(fields)
        elif event == "job_finished":
            if line := self._jobs.end(fields["job_id"]):
                self._screen.say(f"{clock()}{line}")
        elif event == "job_error":
            self._fail(fields)
        elif event == "progress" and fields["done"] == fields["total"]:
            self._stop()
        elif not is_boilerplate(record):
            self._screen.say(str(record.msg))
        if str(record.msg).startswith(LAST_WORDS):
            self._stop()

    def close(self) -> None:
        self._stop()
        super().close()

    def _begin(self, stats: dict[str, int]) -> None:
        self._jobs.planned = stats
        study, cores = self._jobs.study, self._jobs.cores
        where = f" on {cores} cores" if cores else ""
        n_jobs = stats["total"]
        self._screen.say(
            f"{study.name} {study.hash8}: {n_jobs} jobs{where}; logs: {self._jobs.logs}"
        )
        threading.Thread(target=self._draw, daemon=True).start()

    def _draw(self) -> None:
        assert self.lock is not None
        while not self._end.wait(DRAW_EVERY_S):
            with self.lock:
                if not self._end.is_set():
                    self._screen.show(self._jobs.lines(self._screen.is_terminal))

    def _stop(self) -> None:
        self._end.set()
        self._screen.erase()

    def _fail(self, fields: dict[str, Any]) -> None:
        """Print the whole log of a job that failed."""
        job = self._jobs.running.pop(fields["jobid"], None) or self._jobs.start(fields)
        self._screen.say(f"{clock()}  FAILED  {job.label}")
        for log in fields["log"]:
            self._screen.say(f"{log}:\n{content_of(Path(log))}")


class DryRun(logging.Handler):
    """What a dry run says, each thing once."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen
        self._has_table = False

    def emit(self, record: logging.LogRecord) -> None:
        event, fields = event_of(record), record.__dict__
        if event == "run_info" and not self._has_table:
            self._has_table = True
            self._screen.say(str(record.msg))
        elif event == "job_info" and fields["rule_msg"]:
            self._screen.say(f"Job {fields['jobid']}: {fields['rule_msg']}")
        elif not is_boilerplate(record):
            self._screen.say(str(record.msg))


class CardIfNothingToDo(logging.Handler):
    """Prints the card of a study that is finished already."""

    def __init__(self, study: Study) -> None:
        super().__init__()
        self._study = study

    def emit(self, record: logging.LogRecord) -> None:
        if str(record.msg).startswith(NOTHING_TO_DO):
            print_card(self._study)


def print_card(study: Study) -> None:
    """Print the card, if there is one: only a part of the DAG may have been asked for.

    Raises:
        SystemExit: it cannot be read, as one line has said.
    """
    if (study.path / "recommendation.json").exists():
        main(["show", str(study.path)])


def show_progress(workflow: Any, logger: logging.Logger, study: Study, logs: str) -> None:
    """Print the study's progress in place of Snakemake's own messages.

    Those are kept if the call asks for more or less of them than profiles/default, or prints them
    with a logger plugin. The jobs that Snakemake starts as processes of its own print nothing.
    """
    if not workflow.is_main_process:
        return
    settings = workflow.output_settings
    quiet = {choice.name for choice in settings.quiet or ()}
    own = [handler for handler in logger.handlers if handler.name == SNAKEMAKES_OWN]
    asked = settings.printshellcmds or settings.verbose or settings.debug_dag
    if own and not asked and quiet <= QUIET_OF_THE_PROFILE:
        screen = Screen(own[0].stream)  # type: ignore[attr-defined]
        logger.removeHandler(own[0])
        if settings.dryrun:
            logger.addHandler(DryRun(screen))
        else:
            cores = None if workflow.nodes else workflow.cores
            logger.addHandler(StudyProgress(Jobs(study, cores, logs), screen))
    if not settings.dryrun:
        logger.addHandler(CardIfNothingToDo(study))


def event_of(record: logging.LogRecord) -> str:
    return str(getattr(record, "event", None) or "")


def is_boilerplate(record: logging.LogRecord) -> bool:
    """Whether a record says nothing that a person at a terminal needs."""
    if event_of(record) in EVENTS or record.msg is None:
        return True
    if record.__dict__.get("exception") in TOLD_BY_JOB:
        return True
    return str(record.msg).startswith(BOILERPLATE)


def content_of(log: Path) -> str:
    """The whole log of a failed job; of each progress bar in it the last state."""
    if not log.exists():
        return "(nothing was written)"
    lines = log.read_bytes().decode(errors="replace").rstrip().split("\n")
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)
