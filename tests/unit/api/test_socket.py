"""The socket's file: made with care, taken over with care, removed with care."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.patience import PATIENCE

from wherry.api.http import unix_socket
from wherry.errors import Conflict, InvalidRequest


def test_the_directory_is_made_and_the_socket_is_private(socket_dir: Path) -> None:
    old = os.umask(0)
    try:
        path = socket_dir / "a" / "b" / "engine.sock"
        listening = unix_socket.listen(str(path))
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    assert not listening.socket.get_inheritable()
    listening.remove()
    listening.socket.close()
    assert not path.exists()


def test_the_longest_path_works_and_one_more_is_refused(socket_dir: Path) -> None:
    room = unix_socket.PATH_MAX - len(str(socket_dir)) - 1
    listening = unix_socket.listen(str(socket_dir / ("x" * room)))
    listening.remove()
    listening.socket.close()
    with pytest.raises(InvalidRequest, match="108 bytes, and a UNIX socket's path can have at most 107"):
        unix_socket.listen(str(socket_dir / ("x" * (room + 1))))
    with pytest.raises(InvalidRequest, match="108 bytes"):  # bytes count, not characters
        unix_socket.listen(str(socket_dir / ("x" * (room - 1) + "é")))
    assert list(socket_dir.iterdir()) == []


def test_a_stale_socket_is_replaced(socket_dir: Path) -> None:
    path = socket_dir / "engine.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    listening = unix_socket.listen(str(path))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listening.remove()
    listening.socket.close()


@pytest.mark.parametrize("backlog_full", [False, True])
def test_a_socket_that_is_served_is_left_alone(socket_dir: Path, backlog_full: bool) -> None:
    path = str(socket_dir / "engine.sock")
    with socket.socket(socket.AF_UNIX) as live, socket.socket(socket.AF_UNIX) as client:
        live.bind(path)
        live.listen(0)
        if backlog_full:
            client.connect(path)
        with pytest.raises(Conflict, match="in use by another supervisor"):
            unix_socket.listen(path)
        assert os.path.exists(path)


@pytest.mark.parametrize("kind", ["file", "directory", "link", "fifo", "dangling"])
def test_what_is_no_socket_is_refused_and_kept(socket_dir: Path, kind: str) -> None:
    path = socket_dir / "engine.sock"
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        target = socket_dir / "target"
        path.symlink_to(target)
        if kind == "link":
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(str(target))
    before = path.lstat()
    with pytest.raises(Conflict, match="exists and is not a socket"):
        unix_socket.listen(str(path))
    assert path.lstat().st_ino == before.st_ino


def test_a_socket_of_another_type_is_left_alone(socket_dir: Path) -> None:
    path = str(socket_dir / "engine.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(path)
        with pytest.raises(Conflict, match="in use"):
            unix_socket.listen(path)


def test_a_directory_that_cannot_be_made_is_an_oserror_with_its_path(socket_dir: Path) -> None:
    (socket_dir / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        unix_socket.listen(str(socket_dir / "file" / "engine.sock"))


def test_only_the_own_socket_is_removed(socket_dir: Path) -> None:
    path = socket_dir / "engine.sock"
    listening = unix_socket.listen(str(path))
    path.unlink()
    other = unix_socket.listen(str(path))
    listening.remove()
    assert path.exists()
    other.remove()
    other.remove()  # nothing there any more
    assert not path.exists()
    for each in (listening, other):
        each.socket.close()


def test_of_many_who_find_a_stale_socket_one_wins(socket_dir: Path) -> None:
    path = str(socket_dir / "engine.sock")
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
        won: list[unix_socket.ListeningSocket] = []
        lost: list[Conflict] = []

        def attempt(won: list[unix_socket.ListeningSocket] = won, lost: list[Conflict] = lost) -> None:
            try:
                won.append(unix_socket.listen(path))
            except Conflict as error:
                lost.append(error)

        threads = [threading.Thread(target=attempt) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(won), len(lost)) == (1, 5)
        won[0].remove()
        won[0].socket.close()


def test_a_killed_server_leaves_a_socket_that_the_next_one_replaces(socket_dir: Path) -> None:
    path = str(socket_dir / "engine.sock")
    code = f"import os, signal; from wherry.api.http import unix_socket; keep = unix_socket.listen({path!r})\n"
    code += "os.kill(os.getpid(), signal.SIGKILL)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=PATIENCE).returncode == -9
    assert os.path.exists(path)
    listening = unix_socket.listen(path)
    listening.remove()
    listening.socket.close()
