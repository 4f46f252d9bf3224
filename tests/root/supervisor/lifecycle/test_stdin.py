"""A container's standard input: what reaches it, when it ends, and what is left of it when somebody is killed."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from tests.patience import PATIENCE
from tests.root.harness import Supervisor
from tests.waiting import wait_until

from wherry import errors

pytestmark = pytest.mark.root
MIB = 1 << 20


def piece_of(stream: IO[bytes] | None, size: int) -> bytes:
    assert stream is not None
    data = b""
    while len(data) < size and (more := stream.read(size - len(data))):
        data += more
    return data


def write(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin is not None
    rest = memoryview(data)
    while rest:
        rest = rest[process.stdin.write(rest) :]


def close_input(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.stdin = None


def test_a_filter_passes_every_byte(supervisor: Supervisor, rootfs: Path) -> None:
    data = os.urandom(16 * MIB + 7)
    run = supervisor.popen_fed("run", "--rm", "-i", "alpha", rootfs, "/bin/cat")
    out, err = run.communicate(data, timeout=PATIENCE)
    assert (run.returncode, err) == (0, b"")
    assert hashlib.sha256(out).digest() == hashlib.sha256(data).digest()


def test_nothing_is_delayed(supervisor: Supervisor, rootfs: Path) -> None:
    with supervisor.popen_fed("run", "--rm", "-i", "alpha", rootfs, "/bin/cat") as run:
        for word in (b"one\n", b"two\n", b"three\n"):
            write(run, word)
            assert piece_of(run.stdout, len(word)) == word  # while the input stays open
        assert run.communicate(timeout=PATIENCE) == (b"", b"")
    assert run.returncode == 0


def test_the_end_of_the_input_is_the_containers(supervisor: Supervisor, rootfs: Path) -> None:
    run = supervisor.popen_fed(
        "run", "--rm", "-i", "alpha", rootfs, "/bin/sh", "-c", "cat >/dev/null; echo end; exit 7"
    )
    assert run.communicate(b"x", timeout=PATIENCE) == (b"end\n", b"")
    assert run.returncode == 7


def test_without_i_it_is_dev_null(supervisor: Supervisor, rootfs: Path) -> None:
    run = supervisor.popen_fed("run", "--rm", "alpha", rootfs, "/bin/cat")
    assert run.communicate(b"nothing of this", timeout=PATIENCE) == (b"", b"")


@pytest.mark.parametrize("init", [False, True])
def test_a_container_that_reads_no_more(supervisor: Supervisor, rootfs: Path, init: bool) -> None:
    """Whoever writes gets SIGPIPE, as in any pipeline, while the container goes on."""
    options = ["--init"] if init else []
    script = "exec 0<&-; trap 'exit 3' TERM; echo closed; while :; do sleep 0.1; done"
    with supervisor.popen_fed("run", "--rm", "-i", *options, "alpha", rootfs, "/bin/sh", "-c", script) as run:
        assert piece_of(run.stdout, 7) == b"closed\n"
        with pytest.raises(BrokenPipeError):
            write(run, bytes(64 * MIB))
        close_input(run)
        assert supervisor.client.stop("alpha")
        assert run.communicate(timeout=PATIENCE) == (b"", b"")
        assert run.returncode == 3


def test_a_container_that_ends_without_reading(supervisor: Supervisor, rootfs: Path) -> None:
    result = supervisor.client.run(None, rootfs, ["/bin/sh", "-c", "echo bye; exit 4"], input=bytes(8 * MIB), rm=True)
    assert (result.exit_code, result.reason, result.stdout) == (4, "exited", b"bye\n")


class Zeros:
    """Pieces of a MiB or other bytes, counted as they are taken whole."""

    def __init__(self, most: int, size: int = MIB) -> None:
        self.most, self.size = most, size
        self.taken = 0

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(self.most):
            yield bytes(self.size)
            self.taken += 1


def test_two_gibibytes_for_one_that_does_not_read(supervisor: Supervisor, rootfs: Path) -> None:
    """They stay where they are: of what is sent, no more than pipe, socket and a piece are taken."""
    zeros = Zeros(2048)
    assert supervisor.process is not None
    status = Path(f"/proc/{supervisor.process.pid}/status")
    before = resident(status)
    ended: list[int] = []
    command = ["/bin/sleep", "1000"]
    run = threading.Thread(
        target=lambda: ended.append(supervisor.client.run("alpha", rootfs, command, input=zeros, rm=True).exit_code)
    )
    run.start()
    wait_until(lambda: zeros.taken > 0)
    supervisor.client.run("beta", rootfs, ["/bin/true"])  # others are served
    seen = -1
    while seen != zeros.taken:
        seen = zeros.taken
        supervisor.client.run(None, rootfs, ["/bin/true"], rm=True)
    assert zeros.taken < 8
    assert resident(status) - before < 32 * MIB
    supervisor.client.kill("alpha")
    run.join(PATIENCE)
    assert ended == [137]


def resident(status: Path) -> int:
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def test_start_i_keeps_it_open_for_all_who_attach(supervisor: Supervisor, rootfs: Path) -> None:
    supervisor.engine(
        "start", "-i", "alpha", rootfs, "/bin/sh", "-c", "while read line; do echo got $line; done; exit 5"
    )
    first = supervisor.popen_fed("attach", "alpha")
    write(first, b"one\n")
    assert piece_of(first.stdout, 8) == b"got one\n"
    close_input(first)
    second = supervisor.popen_fed("attach", "alpha")
    write(second, b"two\n")
    for each in (first, second):  # the end of its input has not ended the first one
        assert piece_of(each.stdout, 8) == b"got two\n"
    first.send_signal(signal.SIGINT)
    assert first.wait(PATIENCE) == 130
    write(second, b"three\n")
    assert piece_of(second.stdout, 10) == b"got three\n"
    supervisor.client.kill("alpha")
    assert second.wait(PATIENCE) == 137
    for each in (first, second):
        each.communicate()


def test_what_a_client_has_sent_before_it_goes_still_arrives(supervisor: Supervisor, rootfs: Path) -> None:
    script = "until [ -e /go/on ]; do sleep 0.1; done; head -c 100000 | wc -c"
    supervisor.directory.joinpath("go").mkdir()
    volume = f"{supervisor.directory}/go:/go"
    supervisor.client.start("alpha", rootfs, ["/bin/sh", "-c", script], stdin=True, volumes=[volume])
    request = b"POST /containers/alpha/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(supervisor.socket))
        client.sendall(request + b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
        assert b" 101 UPGRADED" in client.recv(4096)
        client.sendall(bytes(100_000))
    supervisor.directory.joinpath("go/on").touch()
    assert supervisor.client.wait("alpha") == 0
    assert [data for _, data in supervisor.client.logs("alpha")] == [b"100000\n"]


def test_a_run_whose_client_is_killed_ends_its_input(supervisor: Supervisor, rootfs: Path) -> None:
    run = supervisor.popen_fed("run", "-i", "alpha", rootfs, "/bin/sh", "-c", "cat; echo end")
    write(run, b"some\n")
    assert piece_of(run.stdout, 5) == b"some\n"
    run.kill()
    run.communicate()
    assert supervisor.client.wait("alpha") == 0
    assert b"".join(data for _, data in supervisor.client.logs("alpha")) == b"some\nend\n"


def test_a_supervisor_killed_under_a_run(supervisor: Supervisor, rootfs: Path) -> None:
    """Its client was the only one for this input (StdinOnce): that ends, as if the client had gone."""
    run = supervisor.popen_fed("run", "-i", "alpha", rootfs, "/bin/sh", "-c", "cat; echo end")
    write(run, b"some\n")
    assert piece_of(run.stdout, 5) == b"some\n"
    supervisor.kill()
    out, err = run.communicate(timeout=PATIENCE)
    assert (run.returncode, out) == (125, b"")
    assert b"did not say how the container ended; alpha may still be running" in err
    supervisor.restart()
    assert supervisor.client.wait("alpha") == 0
    assert b"".join(data for _, data in supervisor.client.logs("alpha")) == b"some\nend\n"


def test_a_supervisor_killed_under_an_attach(supervisor: Supervisor, rootfs: Path) -> None:
    """The input stays open with the shim, and the next supervisor feeds it."""
    supervisor.client.start("alpha", rootfs, ["/bin/cat"], stdin=True)
    attach = supervisor.popen_fed("attach", "alpha")
    write(attach, b"some\n")
    assert piece_of(attach.stdout, 5) == b"some\n"
    supervisor.kill()
    _, err = attach.communicate(timeout=PATIENCE)
    assert (attach.returncode, b"may still be running" in err) == (125, True)
    supervisor.restart()
    again = supervisor.popen_fed("attach", "alpha")
    write(again, b"more\n")
    assert piece_of(again.stdout, 5) == b"more\n"
    again.terminate()
    again.communicate(timeout=PATIENCE)
    supervisor.client.kill("alpha")
    assert supervisor.client.wait("alpha") == 137


def test_a_supervisor_killed_before_the_only_client_came(supervisor: Supervisor, rootfs: Path) -> None:
    body = {"Cmd": ["/bin/cat"], "OpenStdin": True, "StdinOnce": True, "Wherry": {"Rootfs": str(rootfs)}}
    supervisor.client._fetch("POST", "/wherry/run", {"name": "alpha", "stream": "0"}, body)
    supervisor.kill()
    supervisor.restart()
    result = supervisor.client.attach("alpha", input=b"after all")
    assert (result.exit_code, result.stdout) == (0, b"after all")
    with pytest.raises(errors.Conflict, match="is not running"):
        supervisor.client.attach("alpha", input=b"too late")


def test_started_again_it_has_an_input_again(supervisor: Supervisor, rootfs: Path) -> None:
    assert supervisor.client.run("alpha", rootfs, ["/bin/cat"], input="first").stdout == b"first"
    supervisor.client.start("alpha")
    assert supervisor.client.attach("alpha", input="second").stdout == b"second"


@pytest.mark.parametrize("userns", [None, "100000:100000:65536"])
def test_of_another_user(supervisor: Supervisor, rootfs: Path, userns: str | None) -> None:
    """/dev/stdin opens the pipe anew, which is its own."""
    command = ["/bin/sh", "-c", "cat /dev/stdin; id -u"]
    options: dict[str, Any] = {"user": "1000", "userns": userns, "rm": True}
    assert supervisor.client.run(None, rootfs, command, input="mine\n", **options).stdout == b"mine\n1000\n"


def test_a_start_that_fails_leaves_nothing(supervisor: Supervisor, rootfs: Path) -> None:
    assert supervisor.process is not None
    descriptors = Path(f"/proc/{supervisor.process.pid}/fd")
    for _ in range(2):
        before = {os.readlink(link) for link in pipes_of(descriptors)}
        with pytest.raises(errors.CommandNotFound):
            supervisor.client.run("alpha", rootfs, ["/bin/nothing"], input=b"x")
        wait_until(lambda: {os.readlink(link) for link in pipes_of(descriptors)} == before)  # noqa: B023
    assert supervisor.ps() == []


def pipes_of(descriptors: Path) -> list[Path]:
    return [link for link in descriptors.iterdir() if _target(link).startswith("pipe:")]


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return ""


def test_an_answer_without_any_output_has_an_end(supervisor: Supervisor, rootfs: Path) -> None:
    supervisor.client.run("alpha", str(rootfs), ["/bin/echo", "x"])
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(str(supervisor.socket))
        connection.sendall(
            b"POST /containers/alpha/attach?logs=1&stdin=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
        )
        answer = b""
        while not answer.endswith(b"\r\n0\r\n\r\n"):
            piece = connection.recv(4096)
            assert piece, answer
            answer += piece
        assert answer.startswith(b"HTTP/1.1 200 ")
