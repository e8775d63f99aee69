"""Files that survive a kill or a full disk, locks, and the trainer's state (design section 4)."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coordexp.errors import UserError
from coordexp.storage.files import (
    locked,
    point_link,
    read_json,
    replacing,
    replacing_directory,
    sha256_directory,
    sha256_file,
    write_bytes,
    write_json,
    write_text,
)

REPOSITORY = Path(__file__).parents[1]


def failing(number: int):
    def call(*_, **__):
        raise OSError(number, os.strerror(number))

    return call


def fail_after_half(path: Path) -> None:
    path.write_bytes(b"ha")
    raise ZeroDivisionError


def names_in(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir())


@contextlib.contextmanager
def python(code: str, *arguments: object):
    """A child process running `code`, already past the line `print("ready")`; killed at the end."""
    child = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout.readline() == "ready\n", child.stderr.read()
        yield child
    finally:
        child.kill()
        child.communicate()


def test_writing_replaces_the_file_and_makes_its_directory(tmp_path):
    path = tmp_path / "a" / "b.json"
    write_json(path, {"x": 1})
    write_json(path, {"x": [2.5, "ü"]})
    assert read_json(path) == {"x": [2.5, "ü"]}
    assert "ü" in path.read_text()
    assert names_in(path.parent) == ["b.json"]


def test_file_is_synced_before_it_is_renamed(tmp_path, monkeypatch):
    calls, path = [], tmp_path / "x"
    real_sync, real_replace = os.fsync, os.replace

    def sync(fd):
        calls.append(("sync", Path(os.readlink(f"/proc/self/fd/{fd}"))))
        real_sync(fd)

    def replace(a, b):
        calls.append(("replace", Path(b)))
        real_replace(a, b)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    write_text(path, "content")
    (first, temporary), second, third = calls
    assert first == "sync"
    assert temporary.parent == tmp_path
    assert temporary != path
    assert [second, third] == [("replace", path), ("sync", tmp_path)]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("fault", ["os.fsync", "os.replace", "pathlib.Path.write_bytes"])
def test_full_disk_is_one_line_and_the_old_file_is_kept(
    tmp_path, monkeypatch, refused, fault, number
):
    path = tmp_path / "file.json"
    write_json(path, "old")
    before = path.read_bytes()
    with monkeypatch.context() as patch, refused(str(path), "disk is full"):
        patch.setattr(fault, failing(number))
        write_json(path, "new")
    assert path.read_bytes() == before
    assert names_in(tmp_path) == ["file.json"]


def test_full_disk_that_refuses_the_directory_is_one_line(tmp_path, monkeypatch, refused):
    with refused("disk is full"):
        monkeypatch.setattr("os.mkdir", failing(errno.ENOSPC))
        write_bytes(tmp_path / "new" / "file", b"x")


def test_half_written_file_is_removed_when_the_writer_fails(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        fail_after_half(temporary)
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["file"]


def test_other_system_errors_are_not_reported_as_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", failing(errno.EACCES))
    with pytest.raises(PermissionError):
        write_bytes(tmp_path / "file", b"x")
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("value", [float("nan"), {"x": float("inf")}, object()])
def test_value_that_is_not_json_is_refused_and_the_file_kept(tmp_path, value):
    path = tmp_path / "file.json"
    write_json(path, "old")
    with pytest.raises((ValueError, TypeError)):
        write_json(path, value)
    assert read_json(path) == "old"
    assert names_in(tmp_path) == ["file.json"]


def test_kill_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, "old")
    code = (
        "import sys, time, pathlib; from coordexp.storage.files import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as t:\n"
        "    t.write_text('half'); print('ready', flush=True); time.sleep(60)"
    )
    with python(code, path) as child:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert read_json(path) == "old"
    write_json(path, "new")
    assert read_json(path) == "new"


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe", b"[1,]"])
def test_missing_or_invalid_json_is_one_line_with_its_path(tmp_path, refused, content):
    path = tmp_path / "run.json"
    if content is not None:
        path.write_bytes(content)
    with refused(str(path)):
        read_json(path)


def test_a_pipe_is_refused_where_a_file_is_hashed(tmp_path, refused):
    os.mkfifo(tmp_path / "log")
    with refused("log: a pipe or a device, not a file"):
        sha256_file(tmp_path / "log")


def test_whoever_may_read_a_directory_may_read_its_files(tmp_path):
    with replacing_directory(tmp_path / "made") as temporary:
        (temporary / "own").write_text("1")
        (temporary / "own").chmod(0o600)
    may_read = (tmp_path / "made").stat().st_mode & 0o666
    assert (tmp_path / "made/own").stat().st_mode & 0o777 == may_read


def test_directory_digest_depends_on_every_byte_and_name(tmp_path):
    for name in ("a", "b/c"):
        write_text(tmp_path / "d" / name, name)
    before = sha256_directory(tmp_path / "d")
    assert sha256_directory(tmp_path / "d") == before
    write_text(tmp_path / "d" / "a", "A")
    assert sha256_directory(tmp_path / "d") != before
    write_text(tmp_path / "d" / "a", "a")
    assert sha256_directory(tmp_path / "d") == before
    (tmp_path / "d" / "a").rename(tmp_path / "d" / "e")
    assert sha256_directory(tmp_path / "d") != before
    assert (
        sha256_file(tmp_path / "d" / "e")
        == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    )


def test_link_is_relative_and_can_be_pointed_elsewhere(tmp_path):
    link = tmp_path / "study" / "latest"
    for name in ("1", "2"):
        write_text(tmp_path / "study" / name / "card", name)
        point_link(link, tmp_path / "study" / name)
        assert (link / "card").read_text() == name
        assert os.readlink(link) == name
    assert names_in(link.parent) == ["1", "2", "latest"]


HOLDER = (
    "import sys, time, pathlib; from coordexp.storage.files import locked\n"
    "with locked(pathlib.Path(sys.argv[1]), 'being trained'):\n"
    "    print('ready', flush=True); time.sleep(60)"
)


def test_second_process_is_refused_with_the_pid_of_the_first(tmp_path, refused):
    lock = tmp_path / "run" / ".lock"
    with (
        python(HOLDER, lock) as holder,
        refused(str(lock.parent), "being trained", str(holder.pid)),
        locked(lock, "being trained"),
    ):
        pass
    assert lock.exists()


def test_replacing_removes_what_a_killed_process_left(tmp_path):
    with subprocess.Popen(["true"]) as ended:
        pass
    left, written = (tmp_path / f".audit.json.{pid}.tmp" for pid in (ended.pid, os.getppid()))
    other = tmp_path / f".audit.csv.{ended.pid}.tmp"
    for file in (left, written, other):
        file.touch()
    write_text(tmp_path / "audit.json", "{}")
    point_link(tmp_path / "audit.csv", tmp_path / "audit.json")
    assert set(tmp_path.iterdir()) == {tmp_path / "audit.json", tmp_path / "audit.csv", written}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_lock_is_released_when_its_holder_is_killed(tmp_path, how):
    lock = tmp_path / ".lock"
    with python(HOLDER, lock) as holder:
        holder.send_signal(how)
        holder.wait()
        with locked(lock, "being trained"):
            assert lock.read_text().strip() == str(os.getpid())


def test_lock_is_released_after_an_error(tmp_path):
    lock = tmp_path / ".lock"
    with pytest.raises(ZeroDivisionError), locked(lock, "being trained"):
        raise ZeroDivisionError
    with python(HOLDER, lock):
        pass


def test_waiting_process_gets_the_lock_when_the_holder_ends(tmp_path):
    lock = tmp_path / ".lock"
    with python(HOLDER.replace("sleep(60)", "sleep(0.4)"), lock) as holder:
        started = time.monotonic()
        with locked(lock, "being trained", wait=True):
            assert time.monotonic() - started > 0.1
        holder.wait()


def test_state_is_loaded_as_it_was_saved(tmp_path):
    import torch

    from coordexp.training.state import load_state, save_state

    state = {
        "weights": {"w": torch.randn(3, 2), "b": torch.ones(1, dtype=torch.bfloat16)},
        "step": 40,
        "x": [0.1, "ü", None],
    }
    save_state(tmp_path / "state" / "state.pt", state)
    found = load_state(tmp_path / "state" / "state.pt")
    assert found["step"] == 40
    assert found["x"] == [0.1, "ü", None]
    assert all(
        torch.equal(found["weights"][k], v) and found["weights"][k].dtype == v.dtype
        for k, v in state["weights"].items()
    )
    assert names_in(tmp_path / "state") == ["state.pt"]


def test_damaged_state_file_is_refused_wherever_it_is_damaged(tmp_path, refused):
    import torch

    from coordexp.training.state import load_state, save_state

    path = tmp_path / "state.pt"
    save_state(path, {"w": torch.arange(4.0)})
    content = path.read_bytes()
    stride = max(1, len(content) // 150)
    damaged = [
        content[:n] for n in {0, 1, 31, 32, 33, len(content) - 1, *range(0, len(content), stride)}
    ]
    damaged += [
        content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :]
        for i in {0, 31, 32, *range(0, len(content), stride)}
    ]
    damaged += [content + b"\0"]
    for each in damaged:
        path.write_bytes(each)
        with refused(str(path)):
            load_state(path)


def test_name_that_no_file_can_have_is_refused():
    with pytest.raises(UserError, match="no such file"):
        sha256_file(Path("a\0b"))
