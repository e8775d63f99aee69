"""One line at every edge of every verb: streams that cannot be written, Ctrl-C, odd numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from coordexp.cli import verbs
from coordexp.cli.arguments import parse
from coordexp.cli.main import main
from coordexp.errors import reported

pytestmark = pytest.mark.usefixtures("in_tmp")

# A call of each verb, the function behind it, and what a stop leaves.
VERBS = {
    "show": (["show", "study"], "show", "nothing was written"),
    "ui": (["ui"], "ui", "the same command continues"),
    "prepare": (["prepare"], "prepare", "the same command continues"),
    "convert": (
        ["convert", "a", "--out", "b"],
        "convert_annotations",
        "the same command continues",
    ),
    "validate": (["validate", "a"], "validate_records", "nothing was written"),
    "verify": (["verify"], "verify_results", "nothing was written"),
    "compare": (["compare", "a=a", "--out", "b"], "compare_logs", "the same command continues"),
    "probe": (["probe", "run"], "probe_run", "the same command continues"),
    "evaluate": (
        ["evaluate", "a", "--data", "b", "--name", "c"],
        "evaluate_outside",
        "the same command continues",
    ),
    "step": (["step", "audit", "a"], "step", "the same command continues"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_interrupted_verb_says_what_it_leaves(verb, monkeypatch, capsys):
    arguments, function, left = VERBS[verb]

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(verbs, function, interrupted)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 130
    assert capsys.readouterr().err == f"\ncoordexp: interrupted: {left}\n"


# Runs a module as `python -m` does; at the import of another module Ctrl-C or SIGTERM comes.
SIGNAL_AT_IMPORT = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
number, name, module, *arguments = sys.argv[1:]
class Interrupting:
    def find_spec(self, found, path=None, target=None):
        if found == name:
            os.kill(os.getpid(), int(number))
sys.meta_path.insert(0, Interrupting())
sys.argv = [module, *arguments]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143)])
@pytest.mark.parametrize(
    ("name", "module", "arguments"),
    [
        ("torch", "coordexp.training.train", ["experiment=smoke"]),
        ("hydra", "coordexp.training.train", []),
        ("torch", "coordexp.cli", ["prepare", "--only", "base"]),
        ("numpy", "coordexp.cli", ["show"]),
    ],
)
def test_signal_at_an_import_is_one_line(number, code, name, module, arguments):
    command = [sys.executable, "-c", SIGNAL_AT_IMPORT, str(number), name, module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert done.stderr.strip().count("\n") == 0
    assert "interrupted: " in done.stderr or "terminated: " in done.stderr


# --- streams that cannot be written ---

PRINTING = "from coordexp.errors import reported\nwith reported('coordexp'):\n    "


def end_of(program: str, redirected: str) -> tuple[int, str]:
    """Exit code and messages of a Python program whose streams a shell has redirected."""
    command = f'set -o pipefail; {sys.executable} -c "$0" {redirected}'
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        ["bash", "-c", command, program],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("program", "redirected", "code", "message"),
    [
        ("print(1)", "> /dev/full", 1, "coordexp: No space left on device\n"),
        ("print(1, flush=True)", "> /dev/full", 1, "coordexp: No space left on device\n"),
        ("print(1); exit(0)", "> /dev/full", 1, "coordexp: No space left on device\n"),
        ("print(1); exit('said')", "> /dev/full", 1, "said\n"),
        ("print(1)", ">&-", 0, ""),
        ("print(1)", "<&- >&- 2>&-", 0, ""),
        ("import time; time.sleep(.2); print(1)", "| true", 1, ""),
        ("[print('x' * 999) for _ in range(999)]", "| head -1 > out", 1, ""),
    ],
)
def test_output_that_cannot_be_written_is_one_line(program, redirected, code, message):
    assert end_of(PRINTING + program, redirected) == (code, message)


def test_closed_stdout_gets_no_file_that_is_opened_later():
    program = (
        PRINTING + "import os; kept = open('kept', 'wb', 0); kept.write(b'1'); os.write(1, b'2')"
    )
    assert end_of(program, ">&- <&-") == (0, "")
    assert Path("kept").read_bytes() == b"1"


def test_memory_that_does_not_suffice_is_one_line():
    with pytest.raises(SystemExit) as ended, reported("coordexp"):
        bytearray(2**62)
    assert ended.value.code == "coordexp: out of memory"


# --- arguments ---


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["ui", "--port", "x"],
        ["compare", "a=a", "--out", "b", "--cell", "9" * 5000],
        ["show", "a", "b\n" * 3000],
    ],
    ids=lambda arguments: " ".join(arguments)[:20],
)
def test_mistake_on_the_command_line_is_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    message = capsys.readouterr().err
    assert ended.value.code == 2
    assert message.startswith("coordexp")
    assert message.endswith("--help` lists the arguments)\n")
    assert message.count("\n") == 1
    assert len(message) < 1000
