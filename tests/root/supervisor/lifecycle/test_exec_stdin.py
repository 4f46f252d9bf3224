"""The standard input of execs: what reaches it, when it ends, and what is left of it when somebody is killed."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import tarfile
import threading
from pathlib import Path

import pytest
from tests.patience import PATIENCE
from tests.root.harness import Supervisor
from tests.root.supervisor.lifecycle.test_stdin import MIB, Zeros, close_input, piece_of, pipes_of, resident, write
from tests.waiting import wait_until

from wherry import errors

pytestmark = pytest.mark.root


@pytest.fixture
def volume(supervisor: Supervisor, rootfs: Path, tmp_path: Path) -> Path:
    """At /v of the container ``c``, which sleeps."""
    directory = tmp_path / "volume"
    directory.mkdir()
    supervisor.client.start("c", rootfs, ["/bin/sleep", "1000"], volumes=[f"{directory}:/v"])
    return directory


def pipes_held(supervisor: Supervisor) -> set[str]:
    """By the supervisor and its shim."""
    assert supervisor.process is not None
    pids = (supervisor.process.pid, supervisor.info()["shim_pid"])
    return {os.readlink(link) for pid in pids for link in pipes_of(Path(f"/proc/{pid}/fd"))}


@pytest.mark.usefixtures("volume")
def test_a_filter_passes_every_byte(supervisor: Supervisor) -> None:
    data = os.urandom(4 * MIB + 7)
    run = supervisor.popen_fed("exec", "-i", "c", "/bin/cat")
    out, err = run.communicate(data, timeout=PATIENCE)
    assert (run.returncode, err) == (0, b"")
    assert hashlib.sha256(out).digest() == hashlib.sha256(data).digest()


def test_a_tar_archive_is_unpacked(supervisor: Supervisor, volume: Path) -> None:
    data = os.urandom(MIB)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("file")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    run = supervisor.popen_fed("exec", "-i", "-w", "/v", "c", "tar", "x")
    assert run.communicate(packed.getvalue(), timeout=PATIENCE) == (b"", b"")
    assert run.returncode == 0
    assert (volume / "file").read_bytes() == data


@pytest.mark.usefixtures("volume")
def test_nothing_is_delayed_and_its_end_is_the_commands(supervisor: Supervisor) -> None:
    run = supervisor.popen_fed("exec", "-i", "c", "/bin/sh", "-c", "cat; echo end; exit 7")
    for word in (b"one\n", b"two\n"):
        write(run, word)
        assert piece_of(run.stdout, len(word)) == word  # while the input stays open
    close_input(run)
    assert run.communicate(timeout=PATIENCE) == (b"end\n", b"")
    assert run.returncode == 7


@pytest.mark.usefixtures("volume")
def test_without_i_it_is_dev_null(supervisor: Supervisor) -> None:
    run = supervisor.popen_fed("exec", "c", "/bin/cat")
    assert run.communicate(b"nothing of this", timeout=PATIENCE) == (b"", b"")
    assert supervisor.client.exec("c", ["/bin/cat"]).stdout == b""
    assert supervisor.client.exec("c", ["/bin/cat"], input="text").stdout == b"text"
    assert supervisor.client.exec("c", ["/bin/cat"], input=iter([b"a", b"b"])).stdout == b"ab"
    assert supervisor.client.exec("c", ["/bin/cat"], input=b"").stdout == b""


@pytest.mark.usefixtures("volume")
def test_a_command_that_ends_without_reading(supervisor: Supervisor) -> None:
    """Whoever writes gets SIGPIPE, as in any pipeline; that is no error."""
    result = supervisor.client.exec("c", ["/bin/sh", "-c", "echo bye; exit 4"], input=bytes(8 * MIB))
    assert (result.exit_code, result.reason, result.stdout) == (4, "exited", b"bye\n")
    script = "exec 0<&-; echo closed; until [ -e /v/on ]; do sleep 0.05; done; exit 3"
    with supervisor.popen_fed("exec", "-i", "c", "/bin/sh", "-c", script) as run:
        assert piece_of(run.stdout, 7) == b"closed\n"
        with pytest.raises(BrokenPipeError):
            write(run, bytes(64 * MIB))
        close_input(run)
        assert run.poll() is None
        supervisor.client.exec("c", ["/bin/touch", "/v/on"])
        assert run.communicate(timeout=PATIENCE) == (b"", b"")
        assert run.returncode == 3
    with supervisor.popen_fed("exec", "-i", "c", "/bin/true") as run:  # its input stays open
        assert run.wait(PATIENCE) == 0


@pytest.mark.usefixtures("volume")
def test_a_reader_that_does_not_read_makes_the_writer_wait(supervisor: Supervisor) -> None:
    """Of what is sent, no more than pipe, socket and a piece are taken."""
    zeros = Zeros(1024, 64 << 10)
    assert supervisor.process is not None
    status = Path(f"/proc/{supervisor.process.pid}/status")
    before = resident(status)
    ended: list[int] = []
    script = "until [ -e /v/on ]; do sleep 0.05; done; exit 6"
    run = threading.Thread(
        target=lambda: ended.append(supervisor.client.exec("c", ["/bin/sh", "-c", script], input=zeros).exit_code)
    )
    run.start()
    seen = -1
    wait_until(lambda: zeros.taken > 0)
    while seen != zeros.taken:
        seen = zeros.taken
        for _ in range(5):
            assert supervisor.client.exec("c", ["/bin/true"]).exit_code == 0  # others are served
    assert zeros.taken < 128
    assert resident(status) - before < 32 * MIB
    supervisor.client.exec("c", ["/bin/touch", "/v/on"])
    run.join(PATIENCE)
    assert ended == [6]


def test_its_client_is_killed(supervisor: Supervisor, volume: Path) -> None:
    run = supervisor.popen_fed("exec", "-i", "c", "/bin/sh", "-c", "cat > /v/got; echo end >> /v/got; mv /v/got /v/all")
    write(run, b"some\n")
    wait_until(lambda: (volume / "got").exists() and (volume / "got").read_bytes() == b"some\n")
    run.kill()
    run.communicate()
    wait_until((volume / "all").exists)
    assert (volume / "all").read_bytes() == b"some\nend\n"


def test_what_a_client_has_sent_before_it_goes_still_arrives(supervisor: Supervisor, volume: Path) -> None:
    script = "until [ -e /v/on ]; do sleep 0.05; done; head -c 200000 | wc -c > /v/got; mv /v/got /v/all"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(supervisor.socket))
        body = f'{{"Cmd": ["/bin/sh", "-c", "{script}"], "AttachStdin": true}}'.encode()
        head = f"POST /wherry/exec?name=c&stream=1 HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        client.sendall(head.encode() + b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n" + body)
        assert b" 101 UPGRADED" in client.recv(4096)
        client.sendall(bytes(100_000))
    (volume / "on").touch()
    wait_until((volume / "all").exists)
    assert (volume / "all").read_text().strip() == "100000"


def test_the_supervisor_is_killed(supervisor: Supervisor, volume: Path) -> None:
    """Nobody keeps it for the next one: the command reads the end, and the client says what happened."""
    run = supervisor.popen_fed("exec", "-i", "c", "/bin/sh", "-c", "cat > /v/got; echo end >> /v/got; mv /v/got /v/all")
    write(run, b"some\n")
    wait_until(lambda: (volume / "got").exists() and (volume / "got").read_bytes() == b"some\n")
    supervisor.kill()
    out, err = run.communicate(timeout=PATIENCE)
    assert (run.returncode, out) == (125, b"")
    assert b"engine: the supervisor at " in err
    assert b"the command in c may still be running" in err
    wait_until((volume / "all").exists)  # also without a supervisor
    assert (volume / "all").read_bytes() == b"some\nend\n"
    supervisor.restart()
    assert supervisor.client.exec("c", ["/bin/cat"], input=b"again").stdout == b"again"


@pytest.mark.parametrize("user", ["0", "1000"])
@pytest.mark.parametrize("userns", [None, "100000:100000:65536"])
def test_of_another_user(supervisor: Supervisor, rootfs: Path, userns: str | None, user: str) -> None:
    """/dev/stdin opens the pipe anew, which is its own."""
    supervisor.client.start("c", rootfs, ["/bin/sleep", "1000"], userns=userns)
    result = supervisor.client.exec("c", ["/bin/sh", "-c", "cat /dev/stdin; id -u"], user=user, input="mine\n")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"mine\n{user}\n".encode(), b"")


@pytest.mark.usefixtures("volume")
def test_what_is_refused_leaves_nothing(supervisor: Supervisor, rootfs: Path) -> None:
    supervisor.client.run("ended", rootfs, ["/bin/true"])
    assert supervisor.client.exec("c", ["/bin/cat"], input=b"x").stdout == b"x"  # all is prepared that will be
    wait_until(lambda: supervisor.info()["spares"] == 2)
    before = pipes_held(supervisor)
    refused = (
        ("ended", "/bin/cat", errors.Conflict, "container ended is not running"),
        ("nobody", "/bin/cat", errors.NotFound, "nobody"),
        ("c", "/bin/nothing", errors.CommandNotFound, "cannot execute in c"),
    )
    for name, command, kind, message in refused:
        with pytest.raises(kind, match=message):
            supervisor.client.exec(name, [command], input=b"x" * MIB)
    for words, code, what in (
        ("-i ended cat", 125, b"container ended is not running"),
        ("-i c /bin/nothing", 127, b"cannot execute in c"),
        ("-i -d c cat", 125, b"-i and -d"),
        ("-i -t c cat", 125, b"a terminal (-t) is not supported yet"),
    ):
        run = supervisor.popen_fed("exec", *words.split())
        out, err = run.communicate(b"x", timeout=PATIENCE)
        assert (out, run.returncode, what in err) == (b"", code, True)
    wait_until(lambda: pipes_held(supervisor) <= before)


@pytest.mark.usefixtures("volume")
def test_it_ends_with_its_container(supervisor: Supervisor) -> None:
    run = supervisor.popen_fed("exec", "-i", "c", "/bin/cat")
    write(run, b"some\n")
    assert piece_of(run.stdout, 5) == b"some\n"
    supervisor.client.kill("c")
    assert run.wait(PATIENCE) == 137
    run.communicate()
