"""Where things lie, with which modes, and the lock."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import wherry
from wherry.errors import Conflict, InvalidRequest
from wherry.supervisor.state_directory import StateDirectory

LOCKER = """
import sys
sys.path.insert(0, sys.argv[1])
from wherry.supervisor.state_directory import StateDirectory
StateDirectory(sys.argv[2]).lock()
print("locked", flush=True)
sys.stdin.read()
"""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_made_is_for_its_owner_only(tmp_path: Path) -> None:
    state = StateDirectory(str(tmp_path / "lib/wherry"))
    made = [state.path, state.logs, state.layers, state.rootfs, state.run, state.stage]
    assert [(path, mode(path)) for path in made if mode(path) != 0o700] == []
    assert all(path.is_relative_to(state.path) for path in made)
    StateDirectory(str(state.path))


def test_the_mode_of_a_directory_that_was_there_is_the_users(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(0o755)
    StateDirectory(str(tmp_path / "state"))
    assert mode(tmp_path / "state") == 0o755


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert StateDirectory("state").log_of("alpha") == tmp_path / "state/logs/alpha.log"


@pytest.mark.parametrize("path", ["file", "file/below", "link"])
def test_a_directory_that_cannot_be_used(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere/deeper")
    with pytest.raises(InvalidRequest, match=f"state directory {tmp_path / path}: "):
        StateDirectory(str(tmp_path / path))


def test_a_second_lock_is_refused(tmp_path: Path) -> None:
    first, second = StateDirectory(str(tmp_path)), StateDirectory(str(tmp_path))
    first.lock()
    with pytest.raises(Conflict, match=rf"{tmp_path} is in use by another supervisor \(pid {os.getpid()}\)"):
        second.lock()
    first.unlock()
    first.unlock()
    second.lock()
    second.unlock()


def test_the_lock_ends_with_its_process(tmp_path: Path) -> None:
    package = str(Path(wherry.__file__).parents[1])
    command = [sys.executable, "-c", LOCKER, package, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        state = StateDirectory(str(tmp_path))
        with pytest.raises(Conflict, match=rf"\(pid {other.pid}\)"):
            state.lock()
        other.send_signal(signal.SIGKILL)
    state.lock()
    assert (tmp_path / "lock").read_text() == str(os.getpid())
    state.unlock()


def test_a_child_does_not_hold_the_lock(tmp_path: Path) -> None:
    state = StateDirectory(str(tmp_path))
    state.lock()
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as child:
        state.unlock()
        other = StateDirectory(str(tmp_path))
        other.lock()
        other.unlock()
        child.kill()


def test_a_lock_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    state = StateDirectory(str(tmp_path))
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(InvalidRequest, match="lock is a symbolic link, not a file: remove it"):
        state.lock()
    assert not (tmp_path / "precious").exists()


def test_a_copy_is_another_directory(tmp_path: Path) -> None:
    first, second = StateDirectory(str(tmp_path / "a")), StateDirectory(str(tmp_path / "b"))
    assert first.identity() != second.identity()
    assert first.identity() == StateDirectory(str(tmp_path / "b/../a")).identity()
