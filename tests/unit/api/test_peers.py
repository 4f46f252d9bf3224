"""Case 28: who may connect: not a process of a container, and not one that has ended."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from wherry.api.http import peers
from wherry.api.http.peers import Peers

CONNECT = """
import socket, sys, time
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
print("connected", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock, contextlib.chdir(tmp_path):
        sock.bind("s")
        sock.listen()
        yield sock


@contextlib.contextmanager
def connected(listener: socket.socket) -> Iterator[tuple[socket.socket, subprocess.Popen[str]]]:
    """Our end of a connection of another process."""
    command = [sys.executable, "-c", CONNECT, listener.getsockname()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "connected\n"
        connection, _ = listener.accept()
        with connection:
            yield connection, process


def refused(peers: Peers, connection: Any) -> str:
    refusal = peers.refusal(cast(socket.socket, connection))
    return "" if refusal is None else str(refusal)


class Old:
    """A connection on a kernel without SO_PEERPIDFD; ``pid`` if given is what SO_PEERCRED says."""

    def __init__(self, connection: socket.socket, pid: int | None = None) -> None:
        self._connection = connection
        self._pid = pid

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        if option == 77:
            raise OSError(errno.ENOPROTOOPT, "Protocol not available")
        found = self._connection.getsockopt(level, option, size)
        return found if self._pid is None else struct.pack("3i", self._pid, 0, 0)


def test_a_process_of_the_host_may(listener: socket.socket) -> None:
    with connected(listener) as (connection, _):
        for each in (connection, Old(connection)):
            assert refused(Peers("/wherry/1234"), each) == ""


def test_one_that_has_ended_may_not(listener: socket.socket) -> None:
    """A container could connect, and end while another of its processes keeps the socket."""
    with connected(listener) as (connection, process):
        process.kill()
        process.wait(10)
        for each in (connection, Old(connection)):
            assert "has ended" in refused(Peers("/wherry/1234"), each)
            assert refused(Peers("/wherry/1234", allow_containers=True), each) == ""


def test_one_that_is_ending_may_not(listener: socket.socket) -> None:
    """A zombie still has its number, and no control group of its own any more."""
    with connected(listener) as (connection, process):
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        for each in (connection, Old(connection)):
            assert "has ended" in refused(Peers("/wherry/1234"), each)


def test_one_that_cannot_be_seen_from_here_is_not_below_us(listener: socket.socket) -> None:
    with connected(listener) as (connection, _):
        assert refused(Peers("/wherry/1234"), Old(connection, pid=0)) == ""


GROUPS = {
    "ours": ("/wherry/1234/slot/", True),
    "nested": ("/wherry/1234/slot/c/more/", True),
    "of another supervisor": ("/wherry/9999/slot/", True),
    "where hierarchies are not mounted at their roots": ("/machine/wherry/1234/slot/", True),
    "of something else": ("/docker/abc/", False),
    "of what has a like name": ("/wherryx/1234/", False),
    "none": ("/", False),
}


@pytest.mark.parametrize(("group", "is_refused"), GROUPS.values(), ids=GROUPS)
def test_the_control_group_decides(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, group: str, is_refused: bool
) -> None:
    """Of processes in another pid namespace; one hierarchy is enough."""
    with connected(listener) as (connection, process):
        own = peers._groups("self")
        found = {"self": own, str(process.pid): ["/", group]}
        monkeypatch.setattr(peers, "_groups", lambda pid: found[pid])
        checked = Peers("/wherry/1234")
        assert refused(checked, connection) == ""  # in our own pid namespace
        monkeypatch.setattr(checked, "_namespace", 1)
        assert ("runs in a container" in refused(checked, connection)) is is_refused
        allowing = Peers("/wherry/1234", allow_containers=True)
        monkeypatch.setattr(allowing, "_namespace", 1)
        assert refused(allowing, connection) == ""


def test_a_supervisor_in_a_container_refuses_its_own_only(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(listener) as (connection, process):
        found = {"self": ["/wherry/9999/slot/"]}
        monkeypatch.setattr(peers, "_groups", lambda pid: found[pid])
        checked = Peers("/wherry/1234")
        monkeypatch.setattr(checked, "_namespace", 1)
        for group, is_refused in (("/wherry/9999/slot/", False), ("/wherry/1234/slot/", True)):
            found[str(process.pid)] = [group]
            assert bool(refused(checked, connection)) is is_refused
