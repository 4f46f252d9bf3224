"""Case 25: directories and files that somebody else has prepared are refused, with what is wrong; nothing is followed.

"Somebody else" is user 1000 here; the tests run as root.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.patience import PATIENCE
from tests.root.harness import Supervisor, Traces

from wherry.api.http import unix_socket
from wherry.cli.experiment_run import make_folder
from wherry.client import http1
from wherry.errors import Conflict, InvalidRequest, StartFailed
from wherry.experiments.model import BadSettingsError
from wherry.kernel import trust
from wherry.logs import Log
from wherry.storage.layers import Layers, open_rootfs
from wherry.supervisor.records import Records
from wherry.supervisor.state_directory import StateDirectory

pytestmark = pytest.mark.root

SOMEBODY = 1000
PARTS = ["logs", "containers", "rootfs", "run", "run/stage"]
FILES = ["lock", "records.sqlite", "records.sqlite-wal", "records.sqlite-shm", "records.sqlite-journal"]


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A directory elsewhere with a file in it."""
    path = tmp_path / "victim"
    path.mkdir()
    (path / "file").write_text("precious")
    return path


def snapshot(directory: Path) -> dict[str, object]:
    return {str(path): _seen(path) for path in (directory, *directory.rglob("*"))}


def _seen(path: Path) -> tuple[object, ...]:
    status = path.lstat()
    content = path.read_bytes() if path.is_file() else ""
    return (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_size, content)


@contextlib.contextmanager
def unchanged(directory: Path) -> Iterator[None]:
    before = snapshot(directory)
    yield
    assert snapshot(directory) == before


def refusal(state: Path, leftovers: Traces) -> str:
    """The one line that ``engine supervisor`` says of a state directory that it refuses."""
    options: list[str | Path] = ["--state-dir", state, "--socket", state.parent / "s"]
    done = subprocess.run(
        [sys.executable, "-m", "wherry.cli", "supervisor", *options],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 1, done
    assert not (state.parent / "s").exists()
    assert "Traceback" not in done.stderr
    leftovers.groups |= _groups(state / "records.sqlite")
    assert leftovers.find() == []
    return str(done.stderr)


def _groups(records: Path) -> set[str]:
    """The control group that the supervisor made, if it got that far."""
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(f"file:{records}?mode=ro", uri=True)) as file,
    ):
        return {f"wherry/{value}" for (value,) in file.execute("SELECT value FROM setting")}
    return set()


@pytest.mark.attack("state-directory", "blocked")
@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_a_link_is_not_followed(tmp_path: Path, victim: Path, part: str) -> None:
    state = tmp_path / "state"
    (state / part).parent.mkdir(parents=True, mode=0o700)
    (state / part).symlink_to(victim)
    with unchanged(victim), pytest.raises(InvalidRequest) as caught:
        StateDirectory(str(state))
    assert str(caught.value) == (
        f"state directory {state}: {state / part} is a symbolic link, not a directory: remove it"
    )


@pytest.mark.parametrize("part", ["", *PARTS])
@pytest.mark.parametrize(
    ("owner", "mode", "message"),
    [
        (SOMEBODY, 0o700, "belongs to user 1000, who can have prepared it: remove it, or, if you know what"),
        (0, 0o770, "can be written to by its group or by others (mode 0770): look at what is in it, then"),
        (0, 0o1777, "can be written to by its group or by others (mode 1777): look at what is in it, then"),
    ],
)
def test_others_neither_own_nor_write_to_a_part(tmp_path: Path, part: str, owner: int, mode: int, message: str) -> None:
    StateDirectory(str(tmp_path / "state"))
    path = tmp_path / "state" / part
    os.chown(path, owner, 0)
    path.chmod(mode)
    with pytest.raises(InvalidRequest) as caught:
        StateDirectory(str(tmp_path / "state"))
    assert f"state directory {tmp_path / 'state'}: {path} {message}" in str(caught.value)
    os.chown(path, 0, 0)
    path.chmod(0o755)  # as it says; reading is not refused
    StateDirectory(str(tmp_path / "state"))


@pytest.mark.parametrize(("owner", "mode"), [(SOMEBODY, 0o755), (0, 0o777), (0, 0o775)])
def test_a_parent_in_which_others_can_rename_is_refused(tmp_path: Path, owner: int, mode: int) -> None:
    parent = tmp_path / "parent"
    parent.mkdir()
    StateDirectory(str(parent / "lib/state"))
    os.chown(parent, owner, 0)
    parent.chmod(mode)
    with pytest.raises(InvalidRequest, match=f"state directory {parent}/lib/state: {parent} (belongs|can be written)"):
        StateDirectory(str(parent / "lib/state"))


def test_a_directory_as_tmp_may_be_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    StateDirectory(str(tmp_path / "shared/state"))
    os.chown(tmp_path / "shared/state", SOMEBODY, 0)
    with pytest.raises(InvalidRequest, match="shared/state belongs to user 1000"):
        StateDirectory(str(tmp_path / "shared/state"))


def test_a_link_on_the_way_is_followed_if_it_is_ours(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    StateDirectory(str(tmp_path / "link/state"))
    assert (tmp_path / "real/state/logs").is_dir()
    os.chown(tmp_path / "link", SOMEBODY, 0, follow_symlinks=False)
    with pytest.raises(InvalidRequest, match=f"{tmp_path}/link belongs to user 1000"):
        StateDirectory(str(tmp_path / "link/state"))


def test_nothing_is_made_through_a_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere/deeper")
    with pytest.raises(InvalidRequest, match="no such file or directory"):
        StateDirectory(str(tmp_path / "link/state"))
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InvalidRequest, match="too many levels of symbolic links"):
        StateDirectory(str(tmp_path / "loop/state"))
    assert sorted(os.listdir(tmp_path)) == ["link", "loop"]


def as_link(path: Path, victim: Path) -> str:
    path.symlink_to(victim / "file")
    return "is a symbolic link, not a file: remove it"


def as_hard_link(path: Path, victim: Path) -> str:
    path.hardlink_to(victim / "file")
    return "is a hard link, its file has 2 names: remove this one"


def as_anothers(path: Path, _victim: Path) -> str:
    path.touch(0o600)
    os.chown(path, SOMEBODY, 0)
    return "belongs to user 1000"


def as_writable(path: Path, _victim: Path) -> str:
    path.touch()
    path.chmod(0o666)
    return "can be written to by its group or by others (mode 0666)"


def as_fifo(path: Path, _victim: Path) -> str:
    os.mkfifo(path, 0o600)
    return "is a FIFO, not a file: remove it"


PREPARATIONS = [as_link, as_hard_link, as_anothers, as_writable, as_fifo]


@pytest.mark.parametrize("prepare", PREPARATIONS)
@pytest.mark.parametrize("name", FILES)
def test_a_prepared_file_is_refused(
    tmp_path: Path, victim: Path, name: str, prepare: Callable[[Path, Path], str]
) -> None:
    state = StateDirectory(str(tmp_path / "state"))
    message = prepare(state.path / name, victim)
    with unchanged(victim), pytest.raises(InvalidRequest) as caught:
        state.lock() if name == "lock" else Records(state.records)
    assert f"{state.path / name} {message}" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "prepare"), [*((name, as_link) for name in FILES), *(("run/shim.log", how) for how in PREPARATIONS)]
)
def test_the_supervisor_says_so_and_leaves_nothing(
    tmp_path: Path, victim: Path, leftovers: Traces, name: str, prepare: Callable[[Path, Path], str]
) -> None:
    state = StateDirectory(str(tmp_path / "state"))
    message = prepare(state.path / name, victim)
    with unchanged(victim):
        said = refusal(state.path, leftovers)
    assert f"{state.path / name} {message}" in said


def test_a_link_in_the_place_of_the_shims_socket_is_not_followed(
    tmp_path: Path, victim: Path, leftovers: Traces
) -> None:
    state = StateDirectory(str(tmp_path / "state"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        other.bind(str(victim / "sock"))
        other.listen()
        other.setblocking(False)
        (state.run / "shim.sock").symlink_to(victim / "sock")
        leftovers.directory = str(state.path)  # the socket is the test's own
        said = refusal(state.path, leftovers)
        with pytest.raises(BlockingIOError):
            other.accept()
    assert f"{state.run}/shim.sock is a symbolic link, not a socket: remove it" in said


@pytest.mark.parametrize("suffix", ["", ".idx"])
def test_a_log_that_is_a_hard_link_is_not_written_to(tmp_path: Path, victim: Path, suffix: str) -> None:
    log = Log(tmp_path / "a.log", "ab" * 32)
    log.create()
    Path(f"{log.path}{suffix}").unlink()
    Path(f"{log.path}{suffix}").hardlink_to(victim / "file")
    log = Log(tmp_path / "a.log", "ab" * 32)
    with unchanged(victim), pytest.raises(Conflict, match=f"a.log{suffix} is a hard link, its file has 2 names"):
        log.open()


@pytest.mark.parametrize("name", ["", "upper", "work"])
def test_a_layer_that_is_a_link_is_not_followed(tmp_path: Path, victim: Path, rootfs: Path, name: str) -> None:
    (tmp_path / "layers/one").mkdir(parents=True)
    for made in ("upper", "work"):
        (tmp_path / "layers/one" / made).mkdir()
        (victim / made).mkdir()
    lower = open_rootfs(str(rootfs))
    try:
        with unchanged(victim):
            shutil.rmtree(tmp_path / "layers/one" / name)
            (tmp_path / "layers/one" / name).symlink_to(victim)
            with pytest.raises(StartFailed, match="make writable layer"):
                Layers(tmp_path / "layers", 0).mount("one", lower)
    finally:
        os.close(lower)


def test_a_directory_of_today_is_taken_over(tmp_path: Path, rootfs: Path, leftovers: Traces) -> None:
    """With the modes that earlier versions gave it, read by others as far as an administrator allowed that."""
    state = tmp_path / "state"
    for path in ("logs", "containers", "rootfs", "run/stage"):
        (state / path).mkdir(parents=True, mode=0o700)
    for name in ("lock", "records.sqlite", "run/shim.log"):
        (state / name).touch(0o600)
    state.chmod(0o755)
    (state / "logs").chmod(0o750)
    with Supervisor(tmp_path, rootfs, leftovers).serving() as supervisor:
        assert supervisor.engine("run", "--rm", "a", str(rootfs), "/bin/echo", "hello").stdout == "hello\n"
    assert (state / "logs").stat().st_mode & 0o777 == 0o750


# The API's socket.


def test_a_socket_is_not_made_where_others_could_replace_it(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(InvalidRequest, match=f"cannot listen on {tmp_path}/open/s: {tmp_path}/open can be written to"):
        unix_socket.listen(str(tmp_path / "open/s"))
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", SOMEBODY, SOMEBODY)
    with pytest.raises(InvalidRequest, match="theirs belongs to user 1000"):
        unix_socket.listen(str(tmp_path / "theirs/sub/s"))
    assert os.listdir(tmp_path / "theirs") == os.listdir(tmp_path / "open") == []


def test_a_directory_as_tmp_will_do_for_the_socket(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    path = tmp_path / "shared/s"
    path.symlink_to(victim / "sock")
    with unchanged(victim), pytest.raises(Conflict, match="it exists and is not a socket"):
        unix_socket.listen(str(path))
    path.unlink()
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))
        os.chown(path, SOMEBODY, SOMEBODY)
        theirs.listen()
        with pytest.raises(Conflict, match="in use by another supervisor of user 1000"):
            unix_socket.listen(str(path))
    listening = unix_socket.listen(str(path))  # nobody serves it any more
    assert path.stat().st_uid == 0
    listening.remove()
    listening.socket.close()


def test_a_lock_that_somebody_holds_on_the_directory_is_no_reason_to_wait_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listening = unix_socket.listen(str(tmp_path / "own"))
    monkeypatch.setattr(unix_socket, "_LOCK_SECONDS", 0.05)
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        with pytest.raises(Conflict, match=f"cannot listen in {tmp_path}: another process holds a lock"):
            unix_socket.listen(str(tmp_path / "s"))
        listening.remove()
    finally:
        os.close(directory)
        listening.socket.close()
    assert os.listdir(tmp_path) == []


LISTEN_AS_SOMEBODY = """
import os, socket, sys
os.setgid(1000); os.setuid(1000)
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1]); server.listen()
print("listening", flush=True)
connection, _ = server.accept()
sys.stdout.buffer.write(b"got %r" % connection.recv(100))
"""


def test_a_client_sends_nothing_to_a_listener_of_somebody_else(tmp_path: Path) -> None:
    """As a supervisor's place in /tmp, before there is one."""
    tmp_path.chmod(0o1777)
    for parent in tmp_path.parents:
        if parent.stat().st_mode & 0o001 == 0:
            parent.chmod(parent.stat().st_mode | 0o011)
    command = [sys.executable, "-c", LISTEN_AS_SOMEBODY, str(tmp_path / "s")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "listening\n"
        with pytest.raises(PermissionError, match="user 1000 listens there, who is neither root nor you"):
            http1.Pool(str(tmp_path / "s")).request("POST", "/wherry/run", b'{"Env": ["SECRET=1"]}', timeout=PATIENCE)
        assert listener.stdout.read() == "got b''"


# The pieces.


def test_a_file_is_opened_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "file"
    os.close(trust.open_file(str(path), os.O_RDWR | os.O_CREAT))
    assert path.stat().st_mode & 0o777 == 0o600
    descriptor = trust.open_file(str(path), os.O_RDWR)
    assert os.get_blocking(descriptor)
    os.close(descriptor)
    with pytest.raises(FileNotFoundError):
        trust.open_file(str(tmp_path / "none"), os.O_RDWR)


def test_no_descriptor_is_left_open(tmp_path: Path, victim: Path) -> None:
    before = os.listdir("/proc/self/fd")
    (tmp_path / "link").symlink_to(victim)
    for path in ("link", "link/file", "none", "/", "link/../victim"):
        with contextlib.suppress(OSError, trust.DistrustedError):
            os.close(trust.open_directory(str(tmp_path / path)))
    state = StateDirectory(str(tmp_path / "state"))
    state.logs.rmdir()
    state.logs.symlink_to(victim)
    with pytest.raises(InvalidRequest):
        StateDirectory(str(state.path))
    assert os.listdir("/proc/self/fd") == before


def test_a_report_goes_into_a_new_folder_unless_the_user_named_one(tmp_path: Path, victim: Path) -> None:
    """In /tmp somebody may have guessed the name of the default one."""
    (tmp_path / "experiment").symlink_to(victim)
    with unchanged(victim), pytest.raises(BadSettingsError, match="File exists"):
        make_folder(str(tmp_path / "experiment"), is_given=False)
    assert make_folder(str(tmp_path / "new"), is_given=False)
    assert make_folder(str(tmp_path / "new"), is_given=True)
