"""The store of digests: it saves reading a file, and never answers for another file's bytes."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from coordexp.errors import UserError
from coordexp.storage import digest_store
from coordexp.storage.digest_store import (
    STORE,
    known_sha256,
    known_sha256_directory,
    known_sha256s,
    require_sha256,
)
from coordexp.storage.files import sha256_directory, sha256_file

pytestmark = pytest.mark.usefixtures("in_tmp")

LONG_AGO_NS = time.time_ns() - 10**12


class Forgetful(dict):
    """The memory of a process that has just begun: only the store on disk remembers."""

    def update(self, *_, **__) -> None:
        pass


@pytest.fixture(autouse=True)
def other_processes(monkeypatch):
    monkeypatch.setattr(digest_store, "_READ", Forgetful())


@pytest.fixture
def old_file() -> Path:
    """A file that has not changed for a quarter of an hour, in a place with results."""
    Path("results").mkdir()
    file = Path("results/weights")
    file.write_bytes(b"weights")
    os.utime(file, ns=(LONG_AGO_NS, LONG_AGO_NS))
    return file


@pytest.fixture
def reads(monkeypatch) -> list[Path]:
    """The files that are read."""
    found: list[Path] = []

    def reading(path: Path) -> str:
        found.append(path)
        return sha256_file(path)

    monkeypatch.setattr(digest_store, "sha256_file", reading)
    return found


def test_unchanged_file_is_read_once(old_file, reads):
    assert {known_sha256(old_file) for _ in range(3)} == {sha256_file(old_file)}
    assert known_sha256(old_file.resolve()) == sha256_file(old_file)
    assert reads == [old_file]


def test_file_from_the_future_is_read_each_time(old_file, reads):
    """Its time says nothing of what may still be written to it."""
    tomorrow = time.time() + 86400
    os.utime(old_file, (tomorrow, tomorrow))
    assert {known_sha256(old_file) for _ in range(3)} == {sha256_file(old_file)}
    assert reads == [old_file] * 3


def test_one_process_reads_a_file_once_where_there_is_no_store(reads, monkeypatch):
    monkeypatch.setattr(digest_store, "_READ", {})
    file = Path("file")
    file.write_bytes(b"x")
    os.utime(file, ns=(LONG_AGO_NS, LONG_AGO_NS))
    assert {known_sha256(file) for _ in range(3)} == {sha256_file(file)}
    assert reads == [file]


def test_flipped_bit_of_the_store_changes_no_answer(old_file):
    known_sha256(old_file)
    intact, rng = STORE.read_bytes(), random.Random(0)
    for _ in range(200):
        content = bytearray(intact)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        STORE.write_bytes(content)
        assert known_sha256(old_file) == sha256_file(old_file)


def change_content(file: Path) -> None:
    file.write_bytes(b"Weights")


def change_time(file: Path) -> None:
    os.utime(file, ns=(LONG_AGO_NS + 1, LONG_AGO_NS + 1))


def replace_keeping_time(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(b"Weights")
    os.utime(other, ns=(LONG_AGO_NS, LONG_AGO_NS))
    os.replace(other, file)


def lengthen_keeping_time(file: Path) -> None:
    file.write_bytes(b"weights and more")
    os.utime(file, ns=(LONG_AGO_NS, LONG_AGO_NS))


@pytest.mark.parametrize(
    "change", [change_content, change_time, replace_keeping_time, lengthen_keeping_time]
)
def test_changed_file_is_read_again(old_file, reads, change):
    known_sha256(old_file)
    change(old_file)
    assert known_sha256(old_file) == sha256_file(old_file)
    assert len(reads) == 2


def test_file_that_changed_just_now_is_not_remembered(old_file, reads):
    old_file.write_bytes(b"written now")
    known_sha256(old_file)
    known_sha256(old_file)
    assert len(reads) == 2


def break_store() -> None:
    STORE.write_bytes(b"not a database, " * 100)


def truncate_store() -> None:
    STORE.write_bytes(STORE.read_bytes()[:5000])


def replace_by_directory() -> None:
    STORE.unlink()
    STORE.mkdir()


def remove_store() -> None:
    STORE.unlink()


@pytest.mark.parametrize(
    "damage", [break_store, truncate_store, replace_by_directory, remove_store]
)
def test_damaged_store_costs_time_only(old_file, damage):
    known_sha256(old_file)
    damage()
    for _ in range(3):
        assert known_sha256(old_file) == sha256_file(old_file)


def test_without_results_nothing_is_written():
    Path("file").write_bytes(b"x")
    os.utime("file", ns=(LONG_AGO_NS, LONG_AGO_NS))
    assert known_sha256(Path("file")) == sha256_file(Path("file"))
    assert sorted(os.listdir()) == ["file"]


def test_directory_has_the_digest_of_names_and_contents(old_file):
    (old_file.parent / "below").mkdir()
    (old_file.parent / "below" / "more").write_bytes(b"more")
    assert known_sha256_directory(Path("results/below")) == sha256_directory(Path("results/below"))


def test_mismatch_is_one_line_that_names_file_digests_and_advice(old_file):
    recorded = known_sha256(old_file)
    require_sha256(old_file, recorded, "base.json", "restore it")
    old_file.write_bytes(b"weightz")
    with pytest.raises(UserError) as refused:
        require_sha256(old_file, recorded, "base.json", "restore it")
    for word in (str(old_file), recorded[:12], sha256_file(old_file)[:12], "base.json: restore it"):
        assert word.removeprefix("base.json: ") in str(refused.value)
    old_file.unlink()
    with pytest.raises(UserError, match=r"weights: missing, but base\.json records it: restore it"):
        require_sha256(old_file, recorded, "base.json", "restore it")


def test_digests_come_in_the_order_of_the_files(old_file):
    """Files are written from them (runs.json): what is remembered must not change their bytes."""
    files = [old_file.with_name(f"table-{i}") for i in range(8)]
    for file in files:
        file.write_bytes(file.name.encode())
        os.utime(file, ns=(LONG_AGO_NS, LONG_AGO_NS))
    known_sha256(files[5])
    assert list(known_sha256s(files)) == files
