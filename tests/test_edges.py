"""One line at every edge of every verb: streams that cannot be written, Ctrl-C, odd numbers."""

from __future__ import annotations

import ast
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from coordexp.analysis.comparison.probe_findings import read_aggregates
from coordexp.cli import verbs
from coordexp.cli.arguments import parse
from coordexp.cli.main import main
from coordexp.config.checks import check_variant_files
from coordexp.config.limits import NAME, TEMPERATURE
from coordexp.errors import RESUME, UserError, reported
from coordexp.metrics import PROBE_METRICS, REGISTRY
from coordexp.storage.token_tables import read_columns, read_fitted_temperature
from coordexp.study.plan import plan_study
from coordexp.study.sources import check_name, parse_sources

pytestmark = pytest.mark.usefixtures("in_tmp")

# A call of each verb, the function behind it, and what a stop leaves.
VERBS = {
    "show": (["show", "study"], "show", "nothing was written"),
    "list": (["list"], "list_results", "nothing was written"),
    "diff": (["diff", "a", "b"], "diff", "nothing was written"),
    "clean": (["clean"], "clean", "the same command continues"),
    "ui": (["ui"], "ui", "the same command continues"),
    "prepare": (["prepare"], "prepare", "the same command continues"),
    "convert": (
        ["convert", "a", "--out", "b"],
        "convert_annotations",
        "the same command continues",
    ),
    "validate": (["validate", "a"], "validate_records", "nothing was written"),
    "verify": (["verify"], "verify_results", "nothing was written"),
    "export": (["export", "a", "b"], "export_checkpoint", "the same command starts again"),
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
    resumes = module == "coordexp.training.train" and number == signal.SIGTERM
    assert done.returncode == (RESUME if resumes else code)
    assert done.stderr.strip().count("\n") == 0
    assert "interrupted" in done.stderr or "terminated: " in done.stderr


def test_ctrl_c_while_the_workflow_is_read_is_one_line(tmp_path):
    """Snakemake's main function would show a traceback."""
    root = Path(__file__).resolve().parents[1]
    words = ["snakemake", "-n", "--cores", "1", "-s", str(root / "Snakefile")]
    words += ["-d", str(tmp_path), "--config", "experiment=smoke"]
    command = [sys.executable, "-c", SIGNAL_AT_IMPORT, "2", "coordexp.study.plan", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGINT  # 130 in a shell
    assert done.stderr.endswith("\nstage1_ablation: interrupted: the same command continues\n")
    assert "Traceback" not in done.stderr


def test_ctrl_c_that_a_library_drops_is_told():
    program = """
import os, signal
from coordexp.errors import reported
signal.signal(signal.SIGINT, signal.default_int_handler)
with reported("coordexp", "nothing was written"):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        pass
"""
    done = end_of(program, "")
    assert done == (130, "\ncoordexp: interrupted, but it had finished\n")


def test_what_an_encoding_lacks_is_escaped():
    program = "from coordexp.errors import reported\nwith reported('x', 'y'): print('± 1 …')"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stdout) == (0, "\\xb1 1 \\u2026\n")


def test_other_errors_than_ctrl_c_keep_their_traceback():
    program = "import sys; from coordexp.errors import tell_interruption\n"
    program += "sys.excepthook = tell_interruption('x', sys.excepthook); 1 / 0"
    code, message = end_of(program, "")
    assert code == 1
    assert message.startswith("Traceback")


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


def test_file_system_that_refuses_is_named_with_its_path():
    with pytest.raises(SystemExit) as ended, reported("coordexp"):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), Path("results/.lock"))
    assert ended.value.code == "coordexp: results/.lock: Read-only file system"


def test_memory_that_does_not_suffice_is_one_line():
    with pytest.raises(SystemExit) as ended, reported("coordexp"):
        bytearray(2**62)
    assert ended.value.code == "coordexp: out of memory"
    with (
        pytest.raises(SystemExit, match=r"^coordexp: out of memory: a smaller "),
        reported("coordexp"),
    ):
        torch.empty(2**62, dtype=torch.uint8)


# --- arguments ---


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["ui", "--port", "x"],
        ["compare", "a=a", "--out", "b", "--cell", "9" * 5000],
        ["show", "a", "b\n" * 3000],
        ["clean", "--delete", ""],
        ["export", "a", ""],
        ["evaluate", "a", "--data", "", "--name", "a"],
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


# --- names and numbers ---

ODD_NAMES = [
    *("", ".", "..", "../../x", "/x", "a/b", "a\nb", "a\0b", "\udcff", "<script>", "=cmd()"),
    *("-x", "+x", "@x", " a", "a ", "a|b", "a,b", "a\u0301", "a" * 101, "x" * 5000),
]


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_odd_name_is_refused(name):
    assert not NAME.holds(name)
    with pytest.raises(UserError):
        check_name(name, "--name")


@pytest.mark.parametrize("settings", [{"experiment": "../../x"}, {"study": "/x"}, {"study": "<a>"}])
def test_file_outside_of_conf_is_refused(settings):
    (key, value), *_ = settings.items()
    with pytest.raises(UserError, match=rf"^--config {key}={value}: must be "):
        plan_study(settings)


def test_names_that_differ_only_in_capitals_are_refused():
    Path("log").write_text('{"step": 1, "eval_loss": 1.0}\n')
    with pytest.raises(UserError, match=r"^mixed and Mixed differ only in capitals: "):
        parse_sources(["mixed=log", "Mixed=log"])
    with pytest.raises(UserError, match="mixed is named twice"):
        check_variant_files("variants", ["mixed", "Mixed"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["evaluate", "a", "--data", "b", "--name", "c", "--step", "-1"],
            "--step -1: must be from",
        ),
        (["evaluate", "a", "--data", "b", "--name", "c", f"--step={10**30}"], "must be from 0"),
        (["evaluate", "a", "--data", "b", "--name", "c", "--temperature=1e-300"], "must lie in"),
        (["evaluate", "a", "--data", "b", "--name", "c", "--temperature=nan"], "must lie in"),
        (["probe", "run", "--step", "-1"], "--step -1: must be from 0"),
        (["compare", "a=log", "--out", "out", f"--cell={10**400}"], "pixels above 1, at most"),
        (["compare", "a=log", "--out", "out", "--image-side=-5"], "pixels above 1, at most"),
        (["compare", "a=log", "--out", "out", "--temperature", "a=1e308"], "must lie in"),
        (["step", "preregister", '{"seeds": 1000000000}'], "from 1 to 1000"),
        (["prepare", "variant.temperature=1e-300"], "must lie in"),
        (["prepare", "probe.temperature=1e300"], "or lie in [0.001, 1000]"),
        (["prepare", "runtime.threads=0"], "must be at least 1"),
        (["prepare", "runtime.processes=-3"], "must be at least 1"),
        (["prepare", "optim.lr=1e309"], "must be a positive number"),
        (["prepare", "probe.adapter_rank=999999999"], "must be at most 65536"),
        (["prepare", "seed=-1"], "must be a number that is not negative"),
    ],
    ids=lambda value: " ".join(value)[-30:] if isinstance(value, list) else "",
)
def test_absurd_number_is_refused(arguments, message):
    Path("log").write_text('{"step": 1, "eval_loss": 1.0}\n')
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    told = str(ended.value.code)
    assert message in told
    assert told.startswith("coordexp: ")
    assert told.isprintable()
    assert len(told) < 1000


# --- values that a metric cannot have ---


@pytest.mark.parametrize("value", [-0.5, 1e308, float("nan"), float("inf")])
def test_no_bounded_metric_takes_an_impossible_value(value):
    ranges = [m.range for m in REGISTRY.values()]
    ranges += [m.range for m in PROBE_METRICS.values() if m.range.highest <= 1]
    assert not any(found.holds(value) for found in ranges)
    assert all(found.holds(-0.0) for found in ranges)


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ({"parse_rate": 1.2}, "parse_rate is 1.2, not from 0 to 1"),
        ({"mae_right": 1000.5}, "mae_right is 1000.5, not from 0 to 999"),
        ({"count_ratio": -1.0}, "count_ratio is -1, not at least 0"),
        ({"f1_50": 1e308}, "f1_50 is 1e+308, not from 0 to 1"),
        ({"f1_50": 0.5, "final_step": -3}, "final_step is -3, no step of a training"),
        ({"f1_50": 0.5, "final_step": 1e300}, "final_step is 1e+300, no step of a training"),
    ],
)
def test_impossible_published_figure_is_refused(figures, message):
    Path("e.json").write_text(json.dumps({"source": "x", "variants": {"mixed": figures}}))
    with pytest.raises(UserError) as error:
        read_aggregates(Path("e.json"))
    assert str(error.value) == f"e.json: mixed: {message}"


@pytest.mark.parametrize(
    ("column", "values", "shown"),
    [
        ("coord_mass", [0.5, 7.0], "7.0, not from 0 to 1"),
        ("p_gt_fitted", [-0.1, 0.5], "-0.1, not from 0 to 1"),
        ("crps_t1", [1.0, 1e4], "10000.0, not from 0 to 999"),
        ("expected_bin_own", [-3.0, 5.0], "-3.0, not from 0 to 999"),
        ("gt_bin", [0, 1000], "1000, not from 0 to 999"),
        ("box_area_px", [-4.0, 1.0], "-4.0, not at least 0"),
    ],
)
def test_impossible_column_of_a_token_table_is_refused(column, values, shown):
    pq.write_table(pa.table({column: np.array(values)}), "t.parquet")
    with pytest.raises(UserError, match=rf"^t\.parquet: column {column} holds {shown}: restore"):
        read_columns(Path("t.parquet"), [column])


@pytest.mark.parametrize("text", ["warm", "0", "-1", "nan", "1e300"])
def test_fitted_temperature_that_is_none_is_refused(text):
    table = pa.table({"hit": [1.0]}).replace_schema_metadata({"fitted_temperature": text})
    pq.write_table(table, "t.parquet")
    with pytest.raises(UserError, match="its fitted temperature is '"):
        read_fitted_temperature(Path("t.parquet"))
    assert not TEMPERATURE.holds(0)


# --- what a checkpoint may do ---


def loading_calls() -> list[tuple[str, dict[str, str]]]:
    """(class, {keyword: value}) of every call of from_pretrained in the package."""
    found = []
    for file in sorted(Path(verbs.__file__).parents[1].rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "from_pretrained"
            ):
                given = {k.arg: ast.unparse(k.value) for k in node.keywords if k.arg}
                found.append((ast.unparse(node.func.value), given))
    return found


def test_no_checkpoint_runs_code_or_chooses_how_it_is_loaded():
    calls = loading_calls()
    models = [given for name, given in calls if name.endswith("ForConditionalGeneration")]
    assert len(models) == 2
    for given in models:
        assert given["use_safetensors"] == "True"
        assert given["attn_implementation"] == "'sdpa'"
    for name, given in calls:
        # The picture processor and peft's settings are classes of their libraries: no code of the
        # directory can be meant.
        if name not in ("Qwen2VLImageProcessorPil", "PeftConfig"):
            assert given["trust_remote_code"] == "False", name
