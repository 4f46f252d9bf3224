"""What readers of a container's output are owed: every byte to those who watch it live, and a cursor to all.

Files of 64 KiB make a reader that stalls hold its container back after about 8 MiB.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from tests.root.harness import Supervisor
from tests.waiting import wait_until

from wherry import errors
from wherry.logs.holds import HELD_FILES
from wherry.logs.segments import rotated_numbers

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

LINES = 300_000
SIZE = 100 * LINES
SMALL_FILES = ["--log-max-size", "64k"]
MIB_FILES = ["--log-max-size", "1m"]


@pytest.fixture(scope="module")
def expected(rootfs: Path) -> str:
    """The checksum of what /log_lines writes."""
    with subprocess.Popen([rootfs / "log_lines", str(LINES)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        size, digest = summed(process.stdout)
    assert size == SIZE
    return digest


def summed(stream: IO[bytes]) -> tuple[int, str]:
    """Size and checksum of what comes until the end."""
    digest, size = hashlib.sha256(), 0
    while data := stream.read(1 << 20):
        digest.update(data)
        size += len(data)
    return size, digest.hexdigest()


@contextmanager
def running(supervisor: Supervisor, *words: str | Path, stdout: int = subprocess.PIPE) -> Iterator[Any]:
    """``engine`` with its output as bytes; ended in the end."""
    command = supervisor._command(*words)
    pipes: Any = {"stdin": subprocess.DEVNULL, "stdout": stdout, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, env=supervisor._environment(), **pipes)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def log_of(supervisor: Supervisor, name: str) -> dict[str, Any]:
    found: dict[str, Any] = supervisor.client.inspect(name)["Wherry"]["Log"]
    return found


def until_held_back(supervisor: Supervisor, name: str) -> None:
    """Until the reader's files are full, and the buffer too, so that the container waits in write(2)."""

    def is_full() -> bool:
        older = rotated_numbers(supervisor.state_dir / "logs" / f"{name}.log")
        log, later = log_of(supervisor, name), log_of(supervisor, name)
        is_waiting = log["BytesOut"] == later["BytesOut"] and log["FullSeconds"] < later["FullSeconds"]
        return len(older) >= 3 + HELD_FILES and is_waiting

    wait_until(lambda: name in [container.name for container in supervisor.client.ps()])
    wait_until(is_full, 60)


def test_a_slow_reader_of_run_gets_every_byte(supervisor: Supervisor, rootfs: Path, expected: str) -> None:
    """Case 1: the container waits for it, and the log is as short as ever afterwards."""
    with running(supervisor, "run", *SMALL_FILES, "job", rootfs, "/log_lines", str(LINES)) as run:
        until_held_back(supervisor, "job")
        assert summed(run.stdout) == (SIZE, expected)
        assert (run.wait(30), run.stderr.read()) == (0, b"")
    wait_until(lambda: len(rotated_numbers(supervisor.state_dir / "logs" / "job.log")) == 3)


@pytest.mark.parametrize("options", [SMALL_FILES, MIB_FILES])
def test_run_into_a_file_and_into_gzip(
    supervisor: Supervisor, rootfs: Path, tmp_path: Path, expected: str, options: list[str]
) -> None:
    """Case 1."""
    words: list[str | Path] = ["run", "--rm", *options, "job", rootfs, "/log_lines", str(LINES)]
    with (tmp_path / "out").open("wb") as out, running(supervisor, *words, stdout=out.fileno()) as run:
        assert run.wait(60) == 0, run.stderr.read()
    with (tmp_path / "out").open("rb") as file:
        assert summed(file) == (SIZE, expected)
    with (
        running(supervisor, *words) as run,
        subprocess.Popen(["gzip", "-1"], stdin=run.stdout, stdout=subprocess.PIPE) as packed,
        subprocess.Popen(["gzip", "-d"], stdin=packed.stdout, stdout=subprocess.PIPE) as unpacked,
    ):
        assert unpacked.stdout is not None
        assert summed(unpacked.stdout) == (SIZE, expected)
        assert run.wait(60) == 0


@pytest.mark.docker
def test_docker_start_attached_gets_every_byte(supervisor: Supervisor, rootfs: Path, expected: str) -> None:
    """Case 1: each time it is started."""
    docker_library = pytest.importorskip("docker")
    api = docker_library.APIClient(base_url=f"unix://{supervisor.socket}", version="auto")
    body = {
        "Cmd": ["/log_lines", str(LINES)],
        "Wherry": {"Rootfs": str(rootfs)},
        "HostConfig": {"LogConfig": {"Type": "local", "Config": {"max-size": "64k"}}},
    }
    api._result(api._post_json(api._url("/containers/create"), body, params={"name": "job"}), json=True)
    api.close()
    command = ["docker", "-H", f"unix://{supervisor.socket}", "start", "-a", "job"]
    for is_slow in (True, False):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as attached:
            assert attached.stdout is not None
            if is_slow:
                until_held_back(supervisor, "job")
            assert summed(attached.stdout) == (SIZE, expected)
            assert attached.wait(30) == 0


def test_on_output_of_the_client_gets_every_byte(supervisor: Supervisor, rootfs: Path, expected: str) -> None:
    """Case 1."""
    digest = hashlib.sha256()

    def take(_stream: int, data: bytes) -> None:
        if not digest_has_begun:
            digest_has_begun.append(True)
            until_held_back(supervisor, "job")
        digest.update(data)

    digest_has_begun: list[bool] = []
    command = ["/log_lines", str(LINES)]
    result = supervisor.client.run("job", str(rootfs), command, on_output=take, log_max_bytes=65536)
    assert (result.exit_code, result.lost_bytes, digest.hexdigest()) == (0, 0, expected)


@contextmanager
def stalled(supervisor: Supervisor, rootfs: Path, *options: str) -> Iterator[Any]:
    """A run whose output nobody reads, and whose container waits for that."""
    command = ["/bin/sh", "-c", "trap 'exit 3' TERM; exec /log_lines 1000000000"]
    with running(supervisor, "run", *SMALL_FILES, *options, "job", rootfs, *command) as run:
        until_held_back(supervisor, "job")
        yield run


def lines_of(data: bytes) -> int:
    """How many whole lines of /log_lines it is, which must be all from the first on."""
    whole = len(data) // 100
    wrong = next((number for number in range(whole) if data[100 * number :][:13] != b"%012d " % number), None)
    assert wrong is None, f"line {wrong} of {whole}: {data[100 * wrong - 130 : 100 * wrong + 130]!r}"
    return whole


@pytest.mark.parametrize("how", ["stop", "kill", "rm"])
@pytest.mark.parametrize("is_removed", [False, True])
def test_a_stalled_reader_keeps_nobody_from_ending_its_container(
    supervisor: Supervisor, rootfs: Path, how: str, is_removed: bool
) -> None:
    """Case 1: the end is booked meanwhile, and what was written is there for the reader; but not if it is removed."""
    with stalled(supervisor, rootfs, *(["--rm"] if is_removed else [])) as run:
        job = next(container.id for container in supervisor.client.ps())
        other = supervisor.client.run(None, str(rootfs), ["/bin/echo", "hello"], rm=True)
        assert other.stdout == b"hello\n"
        if how == "stop":
            supervisor.client.stop(job, 0)
        elif how == "kill":
            supervisor.client.kill(job)
            supervisor.client.wait(job)
        else:
            supervisor.client.rm(job, force=True)
        if how != "rm" and not is_removed:
            assert supervisor.client.ps()[0].state == "exited"
            assert log_of(supervisor, "job")["BytesHeld"] == 0
        written = 0 if how == "rm" or is_removed else log_of(supervisor, "job")["BytesOut"]
        data, err = run.communicate(timeout=60)
        assert lines_of(data) > 1000
        if how == "rm":
            assert run.returncode == 125, err
            assert err
        else:
            assert run.returncode == 137, err
            assert len(data) == written or is_removed
    wait_until(lambda: is_removed or how == "rm" or len(rotated_numbers(log_path(supervisor))) == 3)
    if is_removed or how == "rm":
        wait_until(lambda: not list((supervisor.state_dir / "logs").iterdir()))


def log_path(supervisor: Supervisor) -> Path:
    return supervisor.state_dir / "logs" / "job.log"


def test_a_stalled_reader_does_not_hold_up_the_supervisors_end(supervisor: Supervisor, rootfs: Path) -> None:
    """Case 1: nor is its client told that all is well."""
    with stalled(supervisor, rootfs) as run:
        supervisor.stop()
        data, err = run.communicate(timeout=60)
        assert lines_of(data) > 1000
        assert run.returncode == 125, err
        assert b"went away" in err


def test_a_client_that_is_killed_holds_nothing_back(supervisor: Supervisor, rootfs: Path) -> None:
    """Case 1."""
    with stalled(supervisor, rootfs) as run:
        before = log_of(supervisor, "job")["BytesOut"]
        run.kill()
        wait_until(lambda: log_of(supervisor, "job")["BytesOut"] > before + (8 << 20))
    wait_until(lambda: len(rotated_numbers(log_path(supervisor))) <= 4)  # one may be on its way out
    supervisor.client.stop("job", 0)


def test_a_killed_supervisor_is_told_and_its_reader_s_files_go(supervisor: Supervisor, rootfs: Path) -> None:
    """Case 1: of a container that goes on, and of one that has ended."""
    with stalled(supervisor, rootfs) as run:
        supervisor.kill()
        data, err = run.communicate(timeout=60)
        lines_of(data)
        assert run.returncode == 125
        assert b"went away" in err
        supervisor.restart()
        wait_until(lambda: len(rotated_numbers(log_path(supervisor))) <= 4)
        supervisor.client.rm("job", force=True)
    with stalled(supervisor, rootfs) as run:
        supervisor.client.stop("job", 0)
        supervisor.kill()
        assert len(rotated_numbers(log_path(supervisor))) > HELD_FILES
        supervisor.restart()
        assert len(rotated_numbers(log_path(supervisor))) == 3
        run.communicate(timeout=60)
        assert run.returncode == 125


def test_what_gives_way_in_non_blocking_mode_is_told_outside_the_data(supervisor: Supervisor, rootfs: Path) -> None:
    """Case 1: the container never waits, and whoever watches it learns what that cost."""
    mode = [*SMALL_FILES, "--log-mode", "non-blocking"]
    with running(supervisor, "run", *mode, "job", rootfs, "/log_lines", str(LINES)) as run:
        wait_until(lambda: [each.state for each in supervisor.client.ps()] == ["exited"], 60)
        data, err = run.communicate(timeout=60)
    lost = re.fullmatch(rb"engine: job: at least (\d+) bytes of its output are lost \(exit code 0\)\n", err)
    assert lost, err
    assert run.returncode == 125
    assert SIZE // 2 < len(data) + int(lost[1]) <= SIZE  # what markers stood for that were rotated away, nobody knows
    assert b"wherry" not in data

    seen = [0]

    def take(_stream: int, data: bytes) -> None:
        if not seen[0]:
            wait_until(lambda: supervisor.client.ps()[0].state == "exited", 60)
        seen[0] += len(data)

    options: Any = {"log_mode": "non-blocking", "log_max_bytes": 65536}
    result = supervisor.client.run(None, str(rootfs), ["/log_lines", str(LINES)], on_output=take, **options)
    assert 0 < result.lost_bytes <= SIZE - seen[0]


def test_who_asks_from_the_last_time_on_misses_no_line(supervisor: Supervisor, rootfs: Path) -> None:
    """Case 3: lines that were captured together do not share the time that a reader has seen as the last one."""
    script = "i=0; while [ $i -lt 1500 ]; do echo $i; i=$((i+1)); usleep 700; done"
    supervisor.client.start("job", str(rootfs), ["/bin/sh", "-c", script])
    seen: list[bytes] = []
    last, ended = 0, False
    while not ended:
        ended = supervisor.client.ps()[0].state == "exited"
        since = last + 1
        text = b"".join(data for _, data in supervisor.client.logs("job", since_ns=since, timestamps=True))
        for line in text.splitlines():
            stamp, _, number = line.partition(b" ")
            seen.append(number)
            last = nanoseconds(stamp.decode())
    assert seen == [b"%d" % number for number in range(1500)]


def nanoseconds(stamp: str) -> int:
    seconds = time.mktime(time.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone
    return int(seconds) * 10**9 + int(stamp[20:29])


def test_a_cursor_goes_on_behind_the_last_byte(supervisor: Supervisor, rootfs: Path, tmp_path: Path) -> None:
    """Case 3: over rotation, another supervisor and another run; never with a byte twice."""
    client, got, cursor = supervisor.client, b"", ""
    command = ["/log_lines", "100000", "1"]
    client.start("job", str(rootfs), command, log_max_bytes=1 << 20, log_max_files=20)
    rounds = 0
    while len(got) < 10_000_000:
        with client.logs("job", after=cursor) as stream:
            got += b"".join(data for _, data in stream)
            assert stream.lost_bytes == 0
            cursor = stream.cursor
        rounds += 1
        if rounds == 5:
            supervisor.kill()
            supervisor.restart()
    assert lines_of(got) == 100_000
    noted = tmp_path / "cursor"
    noted.write_text(cursor)
    assert supervisor.engine("logs", "--cursor-file", noted, "job").stdout == ""
    with running(supervisor, "logs", "-f", "-t", "--cursor-file", noted, "--stream", "out", "job") as following:
        assert following.wait(30) == 0
    assert noted.read_text() == cursor + "\n"
    assert re.fullmatch(r"[0-9a-f]{64}:10000000", cursor)
    client.run("other", str(rootfs), ["/bin/echo", "hello"])
    refused = supervisor.engine("logs", "--cursor-file", noted, "other", check=False)
    assert refused.returncode == 1
    assert "the cursor is of the log of container" in refused.stderr
    with pytest.raises(errors.InvalidRequest, match="not a cursor of a log"):
        client.logs("other", after="12")


def test_a_cursor_on_the_command_line(supervisor: Supervisor, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "go").mkdir()
    script = "echo one; while [ ! -e /go/now ]; do usleep 10000; done; echo two"
    volume = f"{tmp_path}/go:/go"
    identity = supervisor.client.start("job", str(rootfs), ["/bin/sh", "-c", script], volumes=[volume]).id
    wait_until(lambda: supervisor.engine("logs", "job").stdout == "one\n")
    first = supervisor.engine("logs", "--cursor", "job")
    assert (first.stdout, first.stderr) == ("one\n", f"cursor: {identity}:4\n")
    cursor = first.stderr.split()[1]
    (tmp_path / "go/now").touch()
    rest = supervisor.engine("logs", "-f", "--after", cursor, "--cursor", "job")
    assert (rest.stdout, rest.stderr) == ("two\n", f"cursor: {identity}:8\n")
    nothing = supervisor.engine("logs", "--after", rest.stderr.split()[1], "--cursor", "job")
    assert (nothing.stdout, nothing.stderr) == ("", rest.stderr)
    for words, code, said in (
        (["--after", "x"], 1, "not a cursor of a log: 'x'"),
        (["--after", cursor, "--cursor-file", "/nowhere"], 2, "not allowed with argument"),
    ):
        refused = supervisor.engine("logs", *words, "job", check=False)
        assert (refused.returncode, said in refused.stderr) == (code, True), refused


def test_a_cursor_whose_bytes_are_gone_tells_how_many(supervisor: Supervisor, rootfs: Path) -> None:
    """Case 3."""
    supervisor.client.run("job", str(rootfs), ["/log_lines", "10000"], on_output=lambda *_: None, log_max_bytes=65536)
    wait_until(lambda: len(rotated_numbers(log_path(supervisor))) == 3)
    whole = supervisor.client.logs("job")
    size = len(b"".join(data for _, data in whole))
    assert size < 400_000
    container = supervisor.client.ps()[0].id
    late = supervisor.client.logs("job", after=f"{container}:100")
    assert len(b"".join(data for _, data in late)) == size
    assert late.lost_bytes == 1_000_000 - 100 - size


def test_partial_reads_have_cursors_too(supervisor: Supervisor, rootfs: Path) -> None:
    """Case 3: of one stream, of the end, and of what was handed out before a reader gave up."""
    script = "for i in 1 2 3; do echo out$i; echo err$i >&2; usleep 20000; done"
    supervisor.client.run("job", str(rootfs), ["/bin/sh", "-c", script])
    with supervisor.client.logs("job", stdout=False) as stream:
        first = next(stream)[1]  # one line or more: on a busy machine they are captured together
        cursor = stream.cursor
    rest = supervisor.client.logs("job", after=cursor)
    others = b"".join(data for kind, data in rest if kind == 2)
    assert (first + others, bool(first)) == (b"err1\nerr2\nerr3\n", True)
    with supervisor.client.logs("job", tail=0) as stream:
        assert list(stream) == []
        assert stream.cursor == rest.cursor
    with supervisor.client.logs("job", timestamps=True) as stream:
        assert b"".join(data for _, data in stream).count(b"Z ") == 6
        assert stream.cursor == rest.cursor


def test_merged_streams_keep_their_order(supervisor: Supervisor, rootfs: Path) -> None:
    """Case 7: one pipe for both, also for the next supervisor."""
    script = "i=0; while [ $i -lt 500 ]; do echo $i; i=$((i+1)); echo $i >&2; i=$((i+1)); done"
    numbers = b"".join(b"%d\n" % number for number in range(500))
    done = supervisor.engine("run", "--merge-streams", "job", rootfs, "/bin/sh", "-c", script)
    assert (done.stdout.encode(), done.stderr) == (numbers, "")
    assert supervisor.client.inspect("job")["Wherry"]["MergeStreams"] is True
    result = supervisor.client.run(None, str(rootfs), ["/bin/sh", "-c", script], merge_streams=True)
    assert (result.stdout, result.stderr) == (numbers, b"")
    go = supervisor.directory / "go"
    go.mkdir()
    waiting = f"echo first; while [ ! -e /go/now ]; do usleep 10000; done; {script}"
    command = ["/bin/sh", "-c", waiting]
    supervisor.client.start("late", str(rootfs), command, merge_streams=True, volumes=[f"{go}:/go"])
    supervisor.kill()
    supervisor.restart()
    (go / "now").touch()
    assert supervisor.client.wait("late") == 0
    assert b"".join(data for _, data in supervisor.client.logs("late", stderr=False)) == b"first\n" + numbers
    assert list(supervisor.client.logs("late", stdout=False)) == []
