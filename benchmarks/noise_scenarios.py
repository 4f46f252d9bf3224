"""What ``noise.py`` measures beside: each scenario is set up, does its worst for a while, and says what it did.

A scenario is a generator of two steps: it yields when it is set up, and yields a note when it has been measured.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import shutil
import socket
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

sys.path.append(str(Path(__file__).resolve().parent.parent))

from tests.attacks.programs import kept

from wherry import Client, WherryError

if TYPE_CHECKING:
    from wherry.client.config import Options

THREADS = 12_000
FILES = 200_000
ARCHIVED = 40_000
READERS = 100
FOLLOWERS = 100


class Stage:
    """What scenarios work with; ``seconds`` is how long they are to last at least."""

    def __init__(self, client: Client, rootfs: Path, directory: Path, seconds: float) -> None:
        self.client = client
        self.rootfs = rootfs
        self.directory = directory
        self.seconds = seconds
        self.supervisor_pid = client.info()["Wherry"]["Pid"]
        self._open: list[socket.socket] = []

    def start(self, name: str, *words: str, **options: Unpack[Options]) -> None:
        self.client.start(name, str(self.rootfs), list(words), **options)

    def attack(self, name: str, *words: str, **options: Unpack[Options]) -> None:
        """``load`` of tests/attacks in a container."""
        self.start(name, "/load", *words, **options | {"volumes": [f"{kept('load')}:/load:ro"]})

    def wait_for_output(self, name: str, text: bytes) -> None:
        while text not in b"".join(data for _, data in self.client.logs(name)):
            time.sleep(0.05)

    def ask(self, path: str) -> socket.socket:
        """Send a request and read nothing."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.client.socket)
        connection.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        self._open.append(connection)
        return connection

    def resident_mib(self) -> float:
        """Of the supervisor."""
        pages = int(Path(f"/proc/{self.supervisor_pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    def until_over(self) -> Iterator[None]:
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            yield

    def close(self) -> None:
        for connection in self._open:
            connection.close()


def idle(stage: Stage) -> Iterator[str]:
    yield ""
    time.sleep(stage.seconds)
    yield ""


def busy_loops(stage: Stage) -> Iterator[str]:
    for number in range(os.cpu_count() or 1):
        stage.start(f"hog{number}", "/cpu_hog", "600")
    yield ""
    time.sleep(stage.seconds)
    yield "a cpu_hog container a CPU"


def many_threads(stage: Stage) -> Iterator[str]:
    yield ""
    stops = 0
    for _ in stage.until_over():
        stage.attack(f"threads{stops}", "threads", str(THREADS))
        stage.wait_for_output(f"threads{stops}", b"threads")
        stage.client.stop(f"threads{stops}", seconds=0)
        stops += 1
    yield f"{stops} stops"


def soft_limit_storm(stage: Stage) -> Iterator[str]:
    for number in range(4):
        stage.attack(f"storm{number}", "memory", "8", soft_mib=4, hard_mib=64)
    watching = [stage.ask("/events") for _ in range(20)]
    yield ""
    time.sleep(stage.seconds)
    told = sum(len(each.recv(1 << 20)) for each in watching)
    yield f"4 storms, 20 subscribers, {told // 1024} KiB of events"


def hostile_passwd(stage: Stage) -> Iterator[str]:
    rootfs = stage.directory / "rootfs"
    shutil.copytree(stage.rootfs, rootfs, symlinks=True)
    contents = (b"a:\n" * 349_525, b"a:x:1:1:::\n" * 95_000, b":" * (1 << 20), b"a" * (64 << 20))
    yield ""
    starts = 0
    for _ in stage.until_over():
        for content in contents:
            (rootfs / "etc/passwd").write_bytes(content)
            (rootfs / "etc/group").write_bytes(content)
            with contextlib.suppress(WherryError):
                stage.client.run(None, str(rootfs), ["/bin/true"], user="a", rm=True)
            starts += 1
    yield f"{starts} starts, files up to 64 MiB"


def big_lists(stage: Stage) -> Iterator[str]:
    _create(stage, 1000, ["x" * 100_000])
    yield ""
    before = stage.resident_mib()
    for _ in range(READERS):
        stage.ask("/containers/json?all=1")
    lists = 0
    for _ in stage.until_over():
        lists += len(stage.client.ps()) == 1000
    yield f"{lists} lists, {READERS} clients that do not read: {stage.resident_mib() - before:+.0f} MiB"


def big_inspects(stage: Stage) -> Iterator[str]:
    _create(stage, 2, ["x" * 100_000] * 20)
    (name, *_) = (each.name for each in stage.client.ps())
    yield ""
    before = stage.resident_mib()
    for _ in range(READERS):
        stage.ask(f"/containers/{name}/json")
    time.sleep(stage.seconds)
    yield f"{READERS} clients that do not read 6 MiB each: {stage.resident_mib() - before:+.0f} MiB"


def _create(stage: Stage, number: int, words: list[str]) -> None:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(stage.client.socket)
    body = json.dumps({"Cmd": ["/bin/true", *words], "Wherry": {"Rootfs": str(stage.rootfs)}})
    for _ in range(number):
        connection.request("POST", "/containers/create", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 201:
            raise RuntimeError(answer.read())
        answer.read()


def many_variables(stage: Stage) -> Iterator[str]:
    environment = {f"A{number}": "" for number in range(110_000)}
    yield ""
    starts = 0
    for _ in stage.until_over():
        stage.client.run(None, str(stage.rootfs), ["/bin/true"], env=environment, rm=True)
        starts += 1
    yield f"{starts} starts with {len(environment)} variables"


def unpacking(stage: Stage) -> Iterator[str]:
    archive = stage.directory / "big.tar"
    _make_archive(archive, stage.rootfs)
    yield ""
    begin = time.monotonic()
    stage.client.run(None, str(archive), ["/bin/true"], rm=True)
    yield f"{ARCHIVED} files in {time.monotonic() - begin:.1f} s"


def _make_archive(path: Path, rootfs: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(rootfs, ".")
        for number in range(ARCHIVED):
            member = tarfile.TarInfo(f"many/{number % 500}/{number}")
            member.size = 100
            archive.addfile(member, io.BytesIO(b"x" * 100))


def deleting(stage: Stage) -> Iterator[str]:
    stage.attack("files", "files", str(FILES))
    stage.client.wait("files")
    yield ""
    begin = time.monotonic()
    stage.client.rm("files")
    yield f"{FILES} files in {time.monotonic() - begin:.1f} s"


def full_speed_log(stage: Stage) -> Iterator[str]:
    for number in range(2):
        stage.start(f"log{number}", "/bin/dd", "if=/dev/zero", "bs=65536", log_max_files=2)
    yield ""
    time.sleep(stage.seconds)
    yield "2 containers"


def forking(stage: Stage) -> Iterator[str]:
    stage.attack("forks", "forks", pids_limit=512)
    yield ""
    time.sleep(stage.seconds)
    yield "at most 512 processes"


def followers(stage: Stage) -> Iterator[str]:
    stage.start("chatty", "/bin/sh", "-c", "while :; do echo a line of some length, to be read by everybody; done")
    readers = [stage.ask("/containers/chatty/logs?follow=1&stdout=1&tail=0") for _ in range(FOLLOWERS)]
    yield ""
    read = _drain(readers, stage.seconds)
    yield f"{FOLLOWERS} followers, {read >> 20} MiB"


def _drain(readers: list[socket.socket], seconds: float) -> int:
    """Read what comes, from all, in threads."""
    counts = [0] * len(readers)
    end = time.monotonic() + seconds

    def drain(number: int) -> None:
        readers[number].settimeout(1)
        while time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                counts[number] += len(readers[number].recv(1 << 18))

    threads = [threading.Thread(target=drain, args=(number,)) for number in range(len(readers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts)


def writing(stage: Stage) -> Iterator[str]:
    script = "while :; do dd if=/dev/zero of=/big bs=1M count=512 2>/dev/null; done"
    stage.start("disk", "/bin/sh", "-c", script)
    yield ""
    starts = 0
    for _ in stage.until_over():
        with contextlib.suppress(WherryError):
            stage.client.run(None, str(stage.rootfs), ["/bin/true"], user="nobody-there", rm=True)
        stage.client.run(None, str(stage.rootfs), ["/bin/true"], rm=True)
        starts += 2
    yield f"{starts} starts beside a container that fills the disk"


def killed_children(stage: Stage) -> Iterator[str]:
    script = "while :; do /memory_hog 64 1000 >/dev/null; done"
    stage.start("oom", "/bin/sh", "-c", script, memory=16 << 20)
    yield ""
    time.sleep(stage.seconds)
    yield "the OOM killer at work in one container"


def long_filters(stage: Stage) -> Iterator[str]:
    _create(stage, 1000, [])
    filters = json.dumps({"name": [f"{number}.*.*.*x" for number in range(4)] + ["x"] * 900}, separators=(",", ":"))
    yield ""
    lists = 0
    for _ in stage.until_over():
        stage.client._fetch("GET", "/containers/json", {"all": "1", "filters": filters})
        lists += 1
    yield f"{lists} lists of 1000 containers with 900 patterns"


SCENARIOS: dict[str, Callable[[Stage], Iterator[str]]] = {
    "idle": idle,
    "two busy loops": busy_loops,
    "12,000 threads stopped": many_threads,
    "soft limit storm": soft_limit_storm,
    "hostile passwd": hostile_passwd,
    "lists of 1,000 x 100 KB": big_lists,
    "inspect of 2 MB": big_inspects,
    "110,000 variables": many_variables,
    "unpacking": unpacking,
    "deleting a layer": deleting,
    "log at full speed": full_speed_log,
    "fork storm": forking,
    "100 followers": followers,
    "filling the disk": writing,
    "OOM kills": killed_children,
    "long filters": long_filters,
}
