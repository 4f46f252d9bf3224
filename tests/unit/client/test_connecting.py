"""Where the client looks for the supervisor, whom it trusts there, and what it says when nobody answers."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from tests.patience import PATIENCE
from tests.unit.fake_supervisor import RawServer

from wherry import Client, errors
from wherry.client import socket_path


def test_the_socket_is_the_argument_then_the_environment_then_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_SOCKET", "/run/other.sock")
    assert [Client("/run/mine.sock").socket, Client().socket] == ["/run/mine.sock", "/run/other.sock"]
    assert socket_path("unix:///run/docker.sock") == "/run/docker.sock"
    monkeypatch.setenv("ENGINE_SOCKET", "")
    assert Client().socket == "/run/wherry/engine.sock"


@pytest.mark.parametrize("path", ["x" * 108, "ä" * 54, "/a\0b", "unix://"])
def test_a_socket_path_that_the_kernel_cannot_take_is_refused(path: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="socket path"):
        Client(path)


def test_no_supervisor_is_one_line_that_says_how_to_start_one(tmp_path: Path) -> None:
    path = tmp_path / "s"
    hint = f"no supervisor is running at {path}: start one with `engine supervisor ROOTFS --socket {path}`"
    with pytest.raises(errors.Unavailable) as raised:
        Client(str(path)).ping()
    assert str(raised.value) == hint


def test_a_stale_socket_is_no_supervisor(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    with pytest.raises(errors.Unavailable, match="no supervisor is running"):
        Client(str(path)).ping()


def test_what_is_no_socket_is_said(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("")
    with pytest.raises(errors.Unavailable, match="no supervisor is running"):
        Client(str(tmp_path / "s")).ping()


@pytest.mark.root
def test_a_socket_of_another_user_is_not_trusted() -> None:
    """Anybody may listen in /tmp; what runs there as another user must not be handed commands."""
    code = (
        "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen();"
        "print('ready', flush=True); s.accept()[0].recv(1)"
    )
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, whose parents are closed to others
        Path(folder).chmod(0o777)
        path = f"{folder}/s"
        with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE) as stranger:
            assert stranger.stdout
            assert stranger.stdout.readline() == b"ready\n"
            with pytest.raises(errors.Unavailable, match="user 65534 listens there, who is neither root nor you"):
                Client(path).ping()
            stranger.wait(PATIENCE)


def test_a_supervisor_that_does_not_answer_is_a_timeout(tmp_path: Path) -> None:
    def silent(connection: socket.socket) -> None:
        while connection.recv(65536):
            pass

    with (
        RawServer(tmp_path / "s", silent) as server,
        pytest.raises(errors.Unavailable, match="did not answer in time"),
    ):
        Client(server.path, timeout=0.05).ps()
