"""What a user or client gets wrong: a clear message, the right exit code, and nothing left (the fixture looks)."""

from __future__ import annotations

import os
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.patience import PATIENCE
from tests.root.harness import Supervisor, Traces, Word
from tests.waiting import wait_until

pytestmark = pytest.mark.root


def refused(supervisor: Supervisor, code: int, message: str, *words: Word) -> None:
    """``start`` and ``run`` both fail with that code and message, and leave no record, log or layer."""
    for command in ("start", "run"):
        done = supervisor.engine(command, *words, check=False)
        assert done.returncode == code, done
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""
    assert supervisor.ps() == []
    assert list((supervisor.state_dir / "logs").iterdir()) == []


def test_a_missing_rootfs(shared: Supervisor, tmp_path: Path) -> None:
    refused(shared, 125, "no such file or directory", "c", tmp_path / "nowhere", "/bin/true")


def test_a_rootfs_that_is_a_file(shared: Supervisor, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not an archive\n")
    refused(shared, 125, f"{tmp_path}/file", "c", tmp_path / "file", "/bin/true")


def test_a_command_that_is_missing(shared: Supervisor, rootfs: Path) -> None:
    message = "cannot start c: execute /bin/nope: no such file or directory (ENOENT)"
    refused(shared, 127, message, "c", rootfs, "/bin/nope")
    refused(shared, 127, "execute nope: no such file", "c", rootfs, "nope")
    refused(shared, 127, "execute /bin/nope: no such file", "--init", "c", rootfs, "/bin/nope")


def test_a_command_that_cannot_be_executed(shared: Supervisor, rootfs: Path) -> None:
    refused(shared, 126, "execute /etc/passwd: permission denied (EACCES)", "c", rootfs, "/etc/passwd")
    refused(shared, 126, "execute /tmp: permission denied: it is a directory (EACCES)", "c", rootfs, "/tmp")


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "-x", "a\nb", "é", "a" * 200, "\x1b[31mred"])
def test_a_name_that_is_none(shared: Supervisor, rootfs: Path, name: str) -> None:
    done = shared.engine("start", "--", name, rootfs, "/bin/true", check=False)
    assert done.returncode == 125
    assert "nvalid" in done.stderr
    assert "\x1b" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert shared.ps() == []


def test_a_name_in_use(shared: Supervisor, rootfs: Path) -> None:
    shared.engine("start", "c", rootfs, "/bin/sleep", "1000")
    done = shared.engine("start", "c", rootfs, "/bin/sleep", "1000", check=False)
    assert (done.returncode, "name in use: c" in done.stderr) == (125, True)
    shared.engine("stop", "c")
    done = shared.engine("run", "c", rootfs, "/bin/true", check=False)
    assert "engine rm c" in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--hard-mib", "-1"],
        ["--hard-mib", "0"],
        ["--hard-mib", "lots"],
        ["--soft-mib", "8", "--hard-mib", "4"],
        ["--nice", "20"],
        ["--cpus", "0"],
        ["--cpus", "nan"],
        ["--pids-limit", "x"],
        ["--network", "bridge"],
        ["-v", "relative"],
        ["-v", "/etc:relative"],
        ["-v", "/etc:/proc/etc"],
        ["-v", "/etc:/"],
        ["-v", "/does/not/exist:/data"],
        ["--tmpfs", "/data:size=huge"],
        ["--tmpfs", "/data:dev"],
        ["--tmpfs", "/dev"],
        ["-u", "nobody-here"],
        ["-u", "4294967296"],
        ["-w", "relative"],
        ["--hostname", "a b"],
        ["-e", "=x"],
        ["--no-such-option"],
    ],
)
def test_options_that_make_no_sense(shared: Supervisor, rootfs: Path, options: list[str]) -> None:
    done = shared.engine("run", *options, "c", rootfs, "/bin/true", check=False)
    assert done.returncode == 125, done
    assert done.stdout == ""
    assert done.stderr.startswith(("engine: ", "usage: ", "engine run: "))
    assert "Traceback" not in done.stderr
    assert shared.ps() == []


@pytest.mark.parametrize("words", [["stop", "nobody"], ["kill", "nobody"], ["rm", "nobody"], ["logs", "nobody"]])
def test_an_unknown_container(shared: Supervisor, words: list[str]) -> None:
    done = shared.engine(*words, check=False)
    assert done.returncode == 1
    assert "no such container: nobody" in done.stderr.lower()


def test_no_supervisor(tmp_path: Path, supervisor: Supervisor) -> None:
    done = supervisor.engine("ps", "--socket", tmp_path / "nobody.sock", check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "engine supervisor" in done.stderr


def ask(supervisor: Supervisor, request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(str(supervisor.socket))
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass
        answer = b""
        try:
            while chunk := connection.recv(65536):
                answer += chunk
        except ConnectionResetError:
            pass
        return answer


def test_hostile_http(shared: Supervisor) -> None:
    ask(shared, b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Le")
    ask(shared, b"\x00\xff" * 1000)
    head = b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
    body = head + b"Content-Length: 104857600\r\n\r\n"
    assert b" 413 " in ask(shared, body + b"x" * 5_000_000).split(b"\r\n")[0]
    assert shared.ps() == []


@pytest.mark.parametrize("option", ["--socket", "--state-dir"])
def test_places_that_cannot_be(supervisor: Supervisor, rootfs: Path, tmp_path: Path, option: str) -> None:
    (tmp_path / "file").write_text("")
    places = {"--socket": tmp_path / "s.sock", "--state-dir": tmp_path / "other"}
    places[option] = tmp_path / "file" if option == "--state-dir" else tmp_path / ("long" * 30)
    words: list[Word] = [word for pair in places.items() for word in pair]
    done = supervisor.engine("supervisor", rootfs, *words, check=False)
    assert done.returncode == 1
    assert str(places[option]) in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture
def small_disk(tmp_path: Path, leftovers: Traces) -> Iterator[Path]:  # noqa: ARG001 (only for the order)
    """6 MiB; goes after the supervisor and before anybody looks for what is left."""
    directory = tmp_path / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "small", directory], check=True)
    yield directory
    subprocess.run(["umount", directory], check=True)


def test_a_full_disk(small_disk: Path, tmp_path: Path, rootfs: Path, supervisor: Supervisor) -> None:
    """Unpacking fails cleanly; a container that runs can still be stopped, and its end is booked."""
    archive = tmp_path / "big.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(rootfs, arcname=".")
        content = tmp_path / "zeros"
        content.write_bytes(os.urandom(16 << 20))
        tar.add(content, arcname="zeros")
    supervisor.stop()
    supervisor.state_dir = small_disk / "state"
    supervisor.start()
    done = supervisor.engine("run", "c", archive, "/bin/true", check=False)
    assert done.returncode == 125
    assert "no space left on device" in done.stderr.lower()
    assert list((supervisor.state_dir / "rootfs").iterdir()) == []
    supervisor.engine("start", "c", rootfs, "/bin/sleep", "1000")
    filler = small_disk / "filler"
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=4k"], check=False, capture_output=True)
    assert os.statvfs(small_disk).f_bavail == 0
    supervisor.engine("stop", "c")
    assert supervisor.ps()[0]["reason"] == "stopped"
    filler.unlink()
    supervisor.engine("rm", "c")
    wait_until(lambda: supervisor.client.run("after", str(rootfs), ["/bin/true"]).exit_code == 0)
