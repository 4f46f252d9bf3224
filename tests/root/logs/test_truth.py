"""Every byte that a container writes is in its log, once and in order, or counted in a gap marker: whatever is killed.

Containers write lines that prove themselves (workloads/log_storm.c) and count what they have written in a file on a
volume. Meanwhile the supervisor is killed at random instants, the disk of its logs fills up, and followers do not read.
Afterwards the logs are taken apart. ``WHERRY_KILLS`` says how often the supervisor is killed (``make chaos``: more).
"""

from __future__ import annotations

import mmap
import os
import random
import re
import signal
import struct
import subprocess
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.patience import PATIENCE
from tests.root.harness import PREPARED, Supervisor, Traces
from tests.waiting import wait_until

from wherry.logs import STDERR, STDOUT, Log, read
from wherry.logs import index as ix
from wherry.logs.files import ReadFile
from wherry.logs.segments import index_path, rotated_numbers, rotated_path

KILLS = int(os.environ.get("WHERRY_KILLS", "60"))
CONTAINERS = 10_000 if os.environ.get("WHERRY_CHAOS", "") not in {"", "0"} else 200
MIB = 1024 * 1024
LONGEST_WRITE = 32 * MIB
MARKER = re.compile(rb"\[wherry: ([0-9]+) bytes lost here\]\n")

pytestmark = [pytest.mark.root, pytest.mark.slow_start, pytest.mark.timeout(300 + 3 * KILLS)]


class Storm(NamedTuple):
    """A container that writes until it is told to stop."""

    name: str
    seed: int
    pause_us: int
    streams: int
    options: dict[str, object]


KEEPS_ALL = {"log_max_bytes": 4 * MIB, "log_max_files": 1000}
STORMS = [
    Storm("bursts", 1, 50_000, 2, {**KEEPS_ALL}),
    Storm("trickle", 2, 200_000, 2, {**KEEPS_ALL, "log_buffer_bytes": 64 * 1024}),
    Storm("killed", 3, 50_000, 2, {**KEEPS_ALL}),
    Storm("lossy", 4, 50_000, 1, {**KEEPS_ALL, "log_mode": "non-blocking", "log_buffer_bytes": 64 * 1024}),
]


@pytest.fixture
def disk(tmp_path: Path, leftovers: Traces) -> Iterator[Disk]:
    """Where the supervisor's logs are."""
    folder = tmp_path / "state/logs"
    folder.mkdir(parents=True)
    leftovers.mounts.add(str(folder))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3g,mode=700", "wherry-test", folder], check=True)
    yield Disk(folder)
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def counts(tmp_path: Path) -> Path:
    folder = tmp_path / "counts"
    folder.mkdir()
    return folder


def start(supervisor: Supervisor, rootfs: Path, storm: Storm, counts: Path) -> None:
    command = ["/log_storm", str(storm.seed), str(storm.pause_us), str(storm.streams)]
    supervisor.client.start(
        storm.name,
        str(rootfs),
        command,
        volumes=[f"{counts}:/counts"],
        env={"LOG_STORM_COUNTS": f"/counts/{storm.name}"},
        **storm.options,  # type: ignore[arg-type]
    )


def written(counts: Path, storm: Storm) -> dict[int, int]:
    """Bytes that write(2) has taken, by stream."""
    out, err = struct.unpack("=QQ", (counts / storm.name).read_bytes())
    return {STDOUT: out, STDERR: err}


class Follower:
    """``engine logs -f`` whose output nobody reads."""

    def __init__(self, supervisor: Supervisor, name: str) -> None:
        self.process = supervisor.popen("logs", "-f", name)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


class Disk:
    """A file system of its own for the supervisor's logs, which can be full."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.is_full = False

    def fill(self) -> None:
        """As if somebody else had taken all that is free, but for some pages."""
        margins = (2**power for power in range(1, 20))
        # It cannot be made smaller than what is used, and that may grow while we look.
        while not self._resize(self._used() + next(margins)):
            pass
        self.is_full = True

    def _used(self) -> int:
        status = os.statvfs(self.folder)
        return status.f_blocks - status.f_bfree

    def empty(self) -> None:
        assert self._resize(3 * 1024 * MIB // mmap.PAGESIZE)
        self.is_full = False

    def _resize(self, pages: int) -> bool:
        command: list[str | Path] = ["mount", "-o", f"remount,nr_blocks={pages}", self.folder]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0


def test_no_byte_is_lost_or_repeated(supervisor_on: Supervisor, disk: Disk, counts: Path, rootfs: Path) -> None:
    supervisor = supervisor_on
    for storm in STORMS:
        start(supervisor, rootfs, storm, counts)
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    for number in range(KILLS):
        if disk.is_full:
            disk.empty()
        elif dice.random() < 0.3:
            disk.fill()
        follower = Follower(supervisor, dice.choice(STORMS).name) if number % 10 == 0 else None
        time.sleep(dice.expovariate(1 / 0.02))
        supervisor.kill()
        if follower is not None:
            follower.end()
        supervisor.restart()
    disk.empty()
    killed = next(storm for storm in STORMS if storm.name == "killed")
    supervisor.client.kill("killed")
    for storm in STORMS:
        if storm is not killed:
            supervisor.client.stop(storm.name, 60)
    for storm in STORMS:
        check(supervisor, disk.folder / f"{storm.name}.log", storm, written(counts, storm), exact=storm is not killed)


@pytest.fixture
def supervisor_on(disk: Disk, supervisor: Supervisor) -> Supervisor:  # noqa: ARG001 (mounted before it starts)
    return supervisor


def check(supervisor: Supervisor, path: Path, storm: Storm, count: dict[int, int], *, exact: bool) -> None:
    log = Log(path, "")
    gaps = gaps_by_index(path)
    lost = [gap.lost for gap in gaps]
    sizes = {stream: sum(len(chunk.data) for chunk in read(log, streams={stream})) for stream in (STDOUT, STDERR)}
    print(storm.name, "written", count, "in the log", sizes, "lost", sum(lost))
    assert sum(count.values()) > MIB, "nothing happened"
    for stream in (STDOUT, STDERR):
        data = b"".join(chunk.data for chunk in read(log, streams={stream}))
        if storm.options.get("log_mode") == "non-blocking":
            if stream == STDOUT:
                check_lossy(data, count[STDOUT], gaps)
            continue
        assert gaps == []
        assert check_whole(data, complete=exact) == len(data)
        # Killed in the middle of a write, its count lacks what that write had put into the pipe.
        assert len(data) == count[stream] if exact else 0 <= len(data) - count[stream] <= LONGEST_WRITE
    ours = supervisor.client.inspect(storm.name)["Wherry"]["Log"]
    assert (ours["Error"], ours["BytesHeld"], ours["BytesLost"]) == ("", 0, sum(lost))
    assert ours["BytesIn"] == ours["BytesOut"] + ours["BytesLost"]


def gaps_by_index(path: Path) -> list[ix.IndexRecord]:
    found: list[ix.IndexRecord] = []
    for file in [*(rotated_path(path, number) for number in rotated_numbers(path)), path]:
        index_file = ReadFile(os.open(index_path(file), os.O_RDONLY))
        index = ix.Index(index_file)
        found += [record for record in index.slots(0, index.count()) if record and record.stream == ix.GAP]
        index_file.close()
    return found


def check_whole(data: bytes, *, complete: bool) -> int:
    """Lines 0 to N of a stream, without a hole; returns how many bytes have been checked."""
    position = 0
    for number, line in enumerate(data.split(b"\n")):
        end = position + len(line)
        if end == len(data):  # what follows the last newline
            assert not (complete and line), "the last line is not complete"
            break
        assert_line(line, number)
        position = end + 1
    return len(data)


def assert_line(line: bytes, number: int) -> None:
    head = line[:64].split(b" ", 3)
    assert len(head) == 4, f"line {number} is torn: {line[:64]!r}"
    payload = line[len(head[0]) + len(head[1]) + len(head[2]) + 3 :]
    proof = (number, len(payload), zlib.crc32(payload))
    assert (int(head[0]), int(head[1]), int(head[2], 16)) == proof, f"line {number} is {line[:64]!r}"


def check_lossy(data: bytes, count: int, gaps: list[ix.IndexRecord]) -> None:
    """What is there and what the markers count add up; between two markers, lines follow each other."""
    markers = list(MARKER.finditer(data))
    assert [int(marker[1]) for marker in markers] == [gap.lost for gap in gaps]
    # A marker in the middle of a line begins with a newline of its own.
    begins = [marker.start() - (not gap.begins_line) for marker, gap in zip(markers, gaps, strict=True)]
    ends = [0, *(marker.end() for marker in markers)]
    starts = [*begins, len(data)]
    assert sum(starts) - sum(ends) + sum(gap.lost for gap in gaps) == count
    last = -1
    for begin, end in zip(ends, starts, strict=True):
        for line in data[begin:end].split(b"\n")[1 if begin else 0 : -1]:
            number = int(line.split(b" ", 1)[0])
            assert number > last, "lines out of order"
            assert_line(line, number)
            last = number


def test_a_container_that_ended_on_a_full_disk_gets_its_log_later(
    supervisor_on: Supervisor, disk: Disk, rootfs: Path
) -> None:
    """Its end is booked, ps tells of the trouble, and the supervisor may be killed meanwhile."""
    supervisor = supervisor_on
    go = supervisor.directory / "go"
    go.mkdir()
    command = ["/bin/sh", "-c", "while [ ! -e /go/now ]; do usleep 10000; done; seq 100000"]
    supervisor.client.start("job", str(rootfs), command, volumes=[f"{go}:/go"])
    disk.fill()
    (go / "now").touch()
    wait_until(lambda: supervisor.ps()[0]["state"] == "exited")
    assert "No space left on device" in supervisor.ps()[0]["log_error"]
    assert "exited (0) (log error)" in supervisor.engine("ps").stdout
    for _ in range(2):
        supervisor.kill()
        supervisor.restart()
        assert supervisor.ps()[0]["exit_code"] == 0
    disk.empty()
    expected = b"".join(b"%d\n" % number for number in range(1, 100001))
    wait_until(lambda: (disk.folder / "job.log").read_bytes() == expected)
    wait_until(lambda: supervisor.ps()[0]["log_error"] is None)


def test_events_tell_of_gaps_and_of_logs_that_cannot_be_written(
    supervisor_on: Supervisor, disk: Disk, counts: Path, rootfs: Path
) -> None:
    supervisor = supervisor_on
    lossy = next(storm for storm in STORMS if storm.name == "lossy")
    start(supervisor, rootfs, lossy, counts)
    disk.fill()

    def told() -> set[str]:
        done = supervisor.engine("events", "--since", "10m", "--until", "0s", "--format", "{{.Action}}")
        return {line for line in done.stdout.split() if line.startswith("log-")}

    wait_until(lambda: "log-error" in told())
    disk.empty()
    wait_until(lambda: {"log-gap", "log-recovered"} <= told())
    wait_until(lambda: sum(written(counts, lossy).values()) > 2 * MIB)
    supervisor.client.stop("lossy", 30)
    check(supervisor, disk.folder / "lossy.log", lossy, written(counts, lossy), exact=True)


def test_a_stalled_follower_holds_up_neither_container_nor_others(
    supervisor: Supervisor, counts: Path, rootfs: Path
) -> None:
    storm = Storm("bursts", 5, 0, 2, {"log_max_bytes": 1 * MIB, "log_max_files": 2})
    start(supervisor, rootfs, storm, counts)
    stalled = Follower(supervisor, "bursts")
    wait_until(lambda: sum(written(counts, storm).values()) > 20 * MIB)
    before = sum(written(counts, storm).values())
    reader = supervisor.popen("logs", "-f", "--tail", "1", "bursts")
    assert reader.stdout is not None
    wait_until(lambda: sum(written(counts, storm).values()) > before + 20 * MIB)
    supervisor.client.stop("bursts", 30)
    _, err = reader.communicate(timeout=PATIENCE)
    assert reader.returncode == int("were rotated away before they were read" in err)
    stalled.process.send_signal(signal.SIGCONT)
    out, err = stalled.process.communicate(timeout=PATIENCE)
    assert "bytes rotated away here]" not in out  # case 1: a loss is told outside the data
    lost = [int(count) for count in re.findall(r"engine: (\d+) bytes of the log of bursts were rotated away", err)]
    assert 0 < sum(lost) < sum(written(counts, storm).values()) - len(out)
    assert stalled.process.returncode == 1


def test_what_ended_containers_had_is_released(supervisor: Supervisor, rootfs: Path) -> None:
    """Pipes, buffers and files: the number of descriptors and the memory in buffers do not grow with the containers."""

    def run(count: int) -> None:
        for number in range(count):
            result = supervisor.client.run(None, str(rootfs), ["/bin/echo", str(number)], rm=True)
            assert result.stdout == b"%d\n" % number

    def descriptors() -> list[int]:
        return [len(os.listdir(f"/proc/{info[key]}/fd")) for key in ("pid", "shim_pid")]

    info = supervisor.info()
    run(20)
    wait_until(lambda: supervisor.info()["spares"] == PREPARED)
    before = descriptors()
    run(CONTAINERS)
    # Spares come and go in the background, each with some descriptors.
    wait_until(lambda: all(now <= then + 8 for now, then in zip(descriptors(), before, strict=True)))
