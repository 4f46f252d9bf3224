"""Acceptance of what readers are owed: every byte, once, in order; or an exit code other than 0 and a message.

Rounds take turns: run into a slow reader, into a file, into gzip, ``docker start -a``, ``Client.run(on_output=)``;
rotation at 1 MiB and at 64 MiB; in every other round the supervisor is killed at a random moment. WHERRY_CHAOS=1 makes
them 100 rounds of 1 GiB (WHERRY_ROUNDS and WHERRY_ROUND_MIB: others).
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from tests.root.harness import Supervisor
from tests.waiting import wait_until

from wherry import errors

IS_CHAOS = os.environ.get("WHERRY_CHAOS", "") not in {"", "0"}
ROUNDS = int(os.environ.get("WHERRY_ROUNDS", "100" if IS_CHAOS else "10"))
MIB = 1 << 20
SIZE = int(os.environ.get("WHERRY_ROUND_MIB", "1024" if IS_CHAOS else "12")) * MIB
LINES = SIZE // 100

pytestmark = [pytest.mark.root, pytest.mark.docker, pytest.mark.timeout(60 + 120 * ROUNDS)]


class Expected:
    """What the container writes, from a program on the host, to compare with as it comes."""

    def __init__(self, rootfs: Path) -> None:
        self._process = subprocess.Popen([rootfs / "log_lines", str(LINES)], stdout=subprocess.PIPE)
        self.size = 0
        self.is_right = True

    def take(self, data: bytes) -> None:
        assert self._process.stdout is not None
        self.is_right = self.is_right and self._process.stdout.read(len(data)) == data
        self.size += len(data)

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


class Round:
    def __init__(self, supervisor: Supervisor, rootfs: Path, max_size: str, dice: random.Random) -> None:
        self.supervisor = supervisor
        self.rootfs = rootfs
        self.max_size = max_size
        self.dice = dice
        self.expected = Expected(rootfs)
        self.code = -1
        self.message = ""

    def read(self, stream: IO[bytes] | None, is_slow: bool = False) -> None:
        assert stream is not None
        while data := stream.read(MIB):
            self.expected.take(data)
            if is_slow:
                time.sleep(0.002)  # a reader that is slower than the container, or there would be nothing to see

    @contextmanager
    def run(self, stdout: int) -> Iterator[Any]:
        words: list[str | Path] = ["--log-max-size", self.max_size, "job", self.rootfs, "/log_lines", str(LINES)]
        with self._followed(self.supervisor._command("run", *words), stdout) as process:
            yield process

    @contextmanager
    def _followed(self, command: list[str | Path], stdout: int) -> Iterator[Any]:
        environment = self.supervisor._environment()
        pipes: Any = {"stdout": stdout, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, **pipes) as process:
            yield process
            assert process.stderr is not None
            self.message = process.stderr.read().decode()
            self.code = process.wait()

    def slow(self) -> None:
        with self.run(subprocess.PIPE) as process:
            self.read(process.stdout, is_slow=True)

    def file(self) -> None:
        path = self.supervisor.directory / "out"
        with path.open("wb") as out, self.run(out.fileno()) as process:
            process.wait()
        with path.open("rb") as file:
            self.read(file)
        path.unlink()

    def gzip(self) -> None:
        with (
            self.run(subprocess.PIPE) as process,
            subprocess.Popen(["gzip", "-1"], stdin=process.stdout, stdout=subprocess.PIPE) as packed,
            subprocess.Popen(["gzip", "-d"], stdin=packed.stdout, stdout=subprocess.PIPE) as unpacked,
        ):
            self.read(unpacked.stdout)

    def docker(self) -> None:
        body: dict[str, object] = {
            "Cmd": ["/log_lines", str(LINES)],
            "Wherry": {"Rootfs": str(self.rootfs)},
            "HostConfig": {"LogConfig": {"Type": "local", "Config": {"max-size": self.max_size}}},
        }
        self.supervisor.client._done("POST", "/containers/create", {"name": "job"}, body)
        command: list[str | Path] = ["docker", "-H", f"unix://{self.supervisor.socket}", "start", "-a", "job"]
        with self._followed(command, subprocess.PIPE) as process:
            self.read(process.stdout)

    def on_output(self) -> None:
        sizes = {"1m": MIB, "64m": 64 * MIB}
        try:
            result = self.supervisor.client.run(
                "job",
                str(self.rootfs),
                ["/log_lines", str(LINES)],
                log_max_bytes=sizes[self.max_size],
                on_output=lambda _, data: self.expected.take(data),
            )
            self.code, self.message = result.exit_code, f"{result.lost_bytes} lost" if result.lost_bytes else ""
        except errors.Unavailable as error:
            self.code, self.message = 125, str(error)


WAYS: list[Callable[[Round], None]] = [Round.slow, Round.file, Round.gzip, Round.docker, Round.on_output]


def test_every_byte_or_a_message(supervisor: Supervisor, rootfs: Path) -> None:
    """Case 1, acceptance 2."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    for number in range(ROUNDS):
        way, max_size = WAYS[number % len(WAYS)], ("1m", "64m")[number // len(WAYS) % 2]
        is_killed = number // (2 * len(WAYS)) % 2 == 1 if IS_CHAOS else number % 2 == 1
        this = Round(supervisor, rootfs, max_size, dice)
        began = time.monotonic()
        reading = threading.Thread(target=way, args=(this,))
        reading.start()
        if is_killed:
            wait_until(lambda: has_written(supervisor, dice.randrange(SIZE)), 120)
            supervisor.kill()
        reading.join()
        this.expected.end()
        how = f"{way.__name__} {max_size}{' killed' if is_killed else ''}"
        took = time.monotonic() - began
        print(f"round {number}: {how}: {this.expected.size} bytes, exit {this.code} {this.message!r}, {took:.1f} s")
        sys.stdout.flush()
        assert this.expected.is_right, f"{how}: wrong bytes"
        if this.code == 0:
            assert this.expected.size == 100 * LINES
        else:
            assert is_killed, f"{how}: {this.code}: {this.message}"
            assert this.message
        if is_killed:
            supervisor.restart()
        supervisor.client.rm("job", force=True)


def has_written(supervisor: Supervisor, size: int) -> bool:
    for container in supervisor.client.ps():
        log = supervisor.client.inspect(container.name)["Wherry"]["Log"]
        return container.state == "exited" or bool(log["BytesIn"] > size)
    return False
