"""The command line itself: its version, its completion, and what it refuses."""

from __future__ import annotations

import shutil
import subprocess

import pytest

import coordexp
from coordexp.cli.arguments import parse
from coordexp.cli.main import main

# Fills in what bash sets before it calls a completion function, calls it, and prints the
# candidates.
COMPLETE = """
source completion.bash
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_shtab_coordexp
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """`complete("coordexp", "pre")` gives what bash offers for the last word."""
    where = tmp_path_factory.mktemp("completion")
    with open(where / "completion.bash", "w") as script, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", script)
        with pytest.raises(SystemExit):
            main(["--print-completion", "bash"])
    (where / "a study").mkdir()

    def candidates(*words: str) -> list[str]:
        bash = shutil.which("bash")
        assert bash is not None
        done = subprocess.run(
            [bash, "-c", COMPLETE, "bash", *words], cwd=where, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return candidates


def test_version_is_printed(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"coordexp {coordexp.__version__}\n"


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("coordexp", "pre"), ["prepare"]),
        (("coordexp", "compare", "--ima"), ["--image-side"]),
        (("coordexp", "step", "aud"), ["audit"]),
        (("coordexp", "show", "a"), ["a study"]),
    ],
)
def test_bash_completes_verb_option_step_and_path(complete, words, offered):
    assert complete(*words) == offered


def test_bash_offers_every_verb(complete, capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    help_text = capsys.readouterr().out
    offered = complete("coordexp", "")
    assert len(offered) == 14
    assert all(f"\n    {verb} " in help_text for verb in offered)


def test_overrides_may_stand_behind_options():
    args = parse(["prepare", "a=1", "--only", "data", "b=2"])
    assert args.overrides == ["a=1", "b=2"]
    assert args.only == "data"


@pytest.mark.parametrize("arguments", [["show", "a", "b"], ["prepare", "a=1", "--onyl", "data"]])
def test_unknown_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err


def test_step_refuses_a_missing_study():
    with pytest.raises(SystemExit) as ended:
        main(["step", "audit"])
    assert ended.value.code == "coordexp: step audit: needs a study directory"
