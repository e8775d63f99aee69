"""No request leaves the machine: the commands under strace, without settings that forbid it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import connections

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")


def test_addresses_of_a_trace_are_told_apart() -> None:
    trace = """
1 connect(3, {sa_family=AF_UNIX, sun_path="/run/x"}, 110) = 0
1 connect(3, {sa_family=AF_INET, sin_port=htons(5000), sin_addr=inet_addr("127.0.0.1")}, 16) = 0
2 connect(3, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("127.0.0.53")}, 16) = 0
2 connect(3, {sa_family=AF_INET6, sin6_port=htons(443), sin6_flowinfo=htonl(0), """
    trace += 'inet_pton(AF_INET6, "2001:db8::1", &sin6_addr), sin6_scope_id=0}, 28) = -1\n'
    found = connections.count_connections(trace)
    assert (found.loopback, found.dns, dict(found.others)) == (1, 1, {"2001:db8::1:443": 1})
    assert found.leave


@needs_strace
def test_compare_opens_no_connection(tmp_path: Path) -> None:
    assert connections.compare(tmp_path) == connections.Connections()


@needs_strace
@pytest.mark.slow
def test_hostile_checkpoint_opens_no_connection(tmp_path: Path) -> None:
    assert connections.evaluate(tmp_path) == connections.Connections()


@needs_strace
@pytest.mark.slow
def test_ui_connects_to_this_machine_alone(tmp_path: Path) -> None:
    found = connections.ui(tmp_path)
    assert found.loopback
    assert not found.leave
