"""Odd arguments and files end a command with one line: no traceback, no wait without end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from coordexp.cli.main import main
from coordexp.config.yaml_file import check_yaml_file
from coordexp.errors import LONGEST_WORD, RESUMABLE, RESUME, UserError, one_line, reported
from coordexp.storage.files import read_json
from coordexp.storage.typed import read_typed
from coordexp.study.inputs import RunConfig

pytestmark = pytest.mark.usefixtures("in_tmp")
LONG = "x" * 5000


def refusal(*arguments: str) -> str:
    """The one line with which `coordexp` ends."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    message = str(ended.value.code)
    assert message.startswith("coordexp: ")
    assert message.isprintable()
    assert len(message) < 1000
    return message


def write_log(name: str, mae: object = 20.0, acc: object = 0.3) -> str:
    """The log of a run in four evaluations; returns its path."""
    rows = []
    for step in (10, 20, 30, 40):
        at = {"global_step/max_steps": f"{step}/40"}
        rows.append(at | {"loss": 2.0})
        values = {"loss": 2 + 1 / step, "coord_diag/expected_bin_mae": mae, "coord_token_acc": acc}
        rows.append(at | {f"eval_{key}": value for key, value in values.items()})
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def audited(**values: object) -> dict[str, object]:
    """The audit's entry of a log with these values in its eval rows, beside a sound one."""
    main(["compare", f"a={write_log('a', **values)}", f"b={write_log('b')}", "--out", "out"])
    entry: dict[str, object] = json.loads(Path("out/audit.json").read_text())["runs"][0]
    return entry


# --- arguments ---


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", LONG],
        ["step", "audit", LONG],
        ["compare", f"a={LONG}", "--out", "out"],
        ["compare", "a=log", "--out", LONG],
        ["compare", "a=log", "--out", "log/out"],
        ["compare", "a=log", "--out", "/proc/out"],
        ["compare", "a=log", "--out", "two\nlines"],
        ["compare", "a=log", "--out", "\udcff"],
        ["compare", f"{'a' * 300}=log", "--out", "out"],
        ["validate", "two\nlines"],
        ["step", "preregister", "{"],
        ["step", "preregister", "[]"],
        ["step", "preregister", '{"a":' * 50_000],
    ],
    ids=lambda arguments: " ".join(arguments)[:20],
)
def test_arguments_that_no_path_can_have_are_one_line(arguments):
    write_log("log")
    assert refusal(*arguments)
    assert not Path("out").exists() or not any(Path("out").iterdir())


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a" * 300])
def test_name_that_leads_elsewhere_is_refused(name):
    Path("val.jsonl").touch()
    message = refusal("evaluate", "checkpoint", "--data", "val.jsonl", f"--name={name}")
    assert message.startswith("coordexp: --name")
    assert " a name " in message


@pytest.mark.parametrize("port", ["0", "-1", "70000", "9" * 30])
def test_port_that_does_not_exist_is_refused(port):
    from coordexp.tracking.server import require_free

    with pytest.raises(UserError, match="between 1 and 65535"):
        require_free(int(port))


def test_rule_that_names_a_metric_twice_is_refused():
    Path("rule.yaml").write_text("metrics: [expected_bin_mae, expected_bin_mae]\n")
    message = refusal("compare", f"a={write_log('a')}", "--out", "out", "--rule", "rule.yaml")
    assert "expected_bin_mae is named twice" in message


# --- files ---


@pytest.mark.parametrize(
    "arguments",
    [
        ["validate", "pipe", "--no-pictures"],
        ["compare", "a=log", "--out", "out", "--rule", "pipe"],
        ["compare", "a=log", "--out", "out", "--evidence", "pipe"],
        ["compare", "a=pipe", "--out", "out"],
        ["compare", "a=log", "--out", "out", "--evidence", "/dev/zero"],
    ],
)
def test_pipe_or_device_is_refused_and_not_waited_for(arguments, capsys):
    write_log("log")
    os.mkfifo("pipe")
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert "not a file" in f"{ended.value.code}{capsys.readouterr().out}".replace(
        "neither a file nor a directory", "not a file"
    )


@pytest.mark.parametrize("content", ["[" * 200_000, "", "{", '"\ud800"'.encode(errors="replace")])
def test_broken_json_is_one_line_that_says_what_to_do(content):
    path = Path("probe.json")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=r"^probe\.json: ") as error:
        read_typed(path, RunConfig)
    assert "restore it" in str(error.value)
    if content != b'"?"':
        with pytest.raises(UserError, match=r"not valid JSON .*: .* restore it"):
            read_json(path)


def test_deep_nesting_is_refused_before_yaml_reads_it():
    path = Path("rule.yaml")
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match="nested too deeply"):
        check_yaml_file(path)
    path.write_text("rule: {metrics: [nll], margins: {nll: 0.1}}\n" * 50)
    check_yaml_file(path)


def test_number_of_thousands_of_digits_in_a_rule_is_one_line():
    Path("rule.yaml").write_text(f"window: {'9' * 5000}\n")
    message = refusal("compare", f"a={write_log('a')}", "--out", "out", "--rule", "rule.yaml")
    assert "rule.yaml: not a decision rule" in message


def test_file_size_limit_is_one_line_and_the_same_command_continues():
    command = [sys.executable, "-m", "coordexp.cli", "compare"]
    command += [f"a={write_log('a')}", f"b={write_log('b', mae=30.0)}", "--out", "out"]
    limited = ["prlimit", "--fsize=2000", *command]
    done = subprocess.run(limited, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "larger than files may be here" in done.stderr
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == 0


# --- values of a log ---


@pytest.mark.parametrize("values", [{"acc": 43.0}, {"mae": -20.0}, {"mae": 5000.0}])
def test_impossible_value_fails_the_audit(values):
    entry = audited(**values)
    assert not entry["passed"]
    checks = {check["name"]: check for check in entry["checks"]}  # type: ignore[attr-defined]
    assert checks["in range"]["passed"] is False
    assert "at step 10 is" in checks["in range"]["detail"]
    assert "(3 more)" in checks["in range"]["detail"]


@pytest.mark.parametrize("value", [1e308, 10**400, "1e308"])
def test_value_too_large_to_sum_is_not_finite_for_the_audit(value):
    entry = audited(mae=value)
    assert entry["verdict"] == "not finite"
    assert not entry["passed"]


@pytest.mark.parametrize("value", ["20 bins", None, [20.0], True])
def test_compared_value_that_is_no_number_is_warned_of(value):
    (doubt,) = audited(mae=value)["doubts"]  # type: ignore[misc]
    warning = doubt["text"]
    assert warning.startswith("eval_coord_diag/expected_bin_mae is not a number in 4 rows")
    assert "line 2" in warning
    assert doubt["consequence"] == "not used"


# --- how a command ends ---


def test_one_line_escapes_and_shortens():
    assert one_line("a\nb\udcff é × …") == "a\\nb\\udcff é × …"
    assert len(one_line(f"no {LONG} here")) < LONGEST_WORD + 20
    assert one_line(f"no {LONG} here").startswith("no xxx")


# Short sleeps: a signal that comes just before a long one would wait for its end.
UNTIL_A_SIGNAL = "while True: time.sleep(0.01)"


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "termi")],
)
def test_signal_is_one_line_and_the_code_of_shells(number, code, word):
    # A background job of a shell ignores SIGINT, and so would its children.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import time; from coordexp.errors import reported\n"
        f"with reported('coordexp'):\n    print(flush=True)\n    {UNTIL_A_SIGNAL}"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert stderr.strip().count("\n") == 0
    assert stderr.strip().startswith(f"coordexp: {word}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_to_a_training_that_starts_means_start_again(number, capsys):
    with pytest.raises(SystemExit) as stop, reported("coordexp-train", answers=RESUMABLE):
        os.kill(os.getpid(), number)
    assert stop.value.code == RESUME
    assert capsys.readouterr().err.strip().startswith("coordexp-train: interrupted before")
    assert signal.getsignal(number) is signal.SIG_DFL


def test_forked_worker_dies_of_sigterm_without_a_word():
    # The worker says that it runs: what arrives while a process forks is lost.
    program = f"""
import os, signal, time
from coordexp.errors import reported
with reported("coordexp"):
    ready, started = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(started, b"1")
        {UNTIL_A_SIGNAL}
    os.read(ready, 1)
    os.kill(pid, signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50
    )
    assert (done.stdout, done.stderr) == (f"{-signal.SIGTERM}\n", "")


def test_error_of_a_program_keeps_its_traceback():
    with pytest.raises(OSError, match="a bug"), reported("coordexp"):
        raise OSError(9, "a bug")


# --- results of another user ---


@pytest.fixture
def become_another_user(tmp_path):
    """Turns this process into a user who may write nothing here, until the test ends."""
    if os.geteuid():
        pytest.skip("only root can become another user")
    for folder in (tmp_path, *tmp_path.parents):
        if "pytest-" in str(folder):
            folder.chmod(0o755)
    yield lambda: os.seteuid(65534)
    os.seteuid(0)


def test_what_belongs_to_another_user_is_refused_in_one_line(become_another_user):
    logs = [f"{name}={write_log(name)}" for name in ("a", "b")]
    main(["compare", *logs, "--out", "out"])
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    Path(write_log("secret")).chmod(0o600)
    become_another_user()
    assert "Permission denied" in refusal("compare", *logs, "--out", "elsewhere")
    assert "Permission denied" in refusal("compare", *logs, "--out", "out")
    assert "secret: cannot be read" in refusal("compare", "a=secret", "--out", "out")
    assert all(path.read_bytes() == content for path, content in before.items())
