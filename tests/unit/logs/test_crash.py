"""SIGKILL of a capturing process at random instants: every byte is in the log once and in order."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import zlib
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from tests.patience import PATIENCE
from tests.waiting import wait_until

from wherry.logs import STDERR, STDOUT, Log, LogOptions, Pipeline, make_buffer, make_pipe, read

ID = "ab" * 32
KILLS = 60

# Lines "<number> <checksum> <payload>", numbered for each stream, in bursts and trickles, with NULs, and now and then
# one that is longer than a pipe. Ends at SIGTERM, and tells the descriptor in its argument how many lines there were.
GENERATOR = r"""
import os, random, signal, sys, time, zlib

def write_all(fd, data):
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]

stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
dice = random.Random(7)
counts = {1: 0, 2: 0}
while not stopped:
    fd = dice.choice((1, 2))
    burst = []
    for _ in range(dice.choice((1, 3, 50, 400))):
        length = 1_500_000 if dice.random() < 0.0005 else dice.randrange(120)
        payload = bytes([dice.choice(b"abc\0\r ")]) * length
        burst.append(b"%d %08x " % (counts[fd], zlib.crc32(payload)) + payload + b"\n")
        counts[fd] += 1
    data = b"".join(burst)
    cut = dice.randrange(len(data))
    write_all(fd, data[:cut])
    if dice.random() < 0.02:
        time.sleep(dice.random() * 0.003)
    write_all(fd, data[cut:])
write_all(int(sys.argv[1]), b"%d %d" % (counts[1], counts[2]))
"""


def start_generator(out: int, err: int, result: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", GENERATOR, str(result)]
    return subprocess.Popen(command, stdout=out, stderr=err, pass_fds=[result])


def capture_in_a_child(log: Log, out: int, err: int, buffer: int) -> int:
    """Fork a process that captures until it is killed; it ends by itself when both streams have ended."""
    assert threading.active_count() == 1, "a process with threads must not fork"
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        done = threading.Event()
        with Pipeline() as capture:
            # Not the parent's, which has made the log and so believes that nobody has written to it yet.
            capture.add(Log(log.path, ID, log.options), out, err, done.set, buffer)
            status = 0 if done.wait(PATIENCE) else 2
    finally:
        os._exit(status)


def captured(log: Log) -> int:
    """The size of all files of the log; a kill in the middle of a rotation may leave the last one without its name."""
    total = 0
    for path in log.path.parent.iterdir():
        if path.suffix != ".idx":
            with suppress(FileNotFoundError):
                total += path.stat().st_size
    return total


def has_moved(log: Log, size: int) -> bool:
    return captured(log) != size


def lines_of(log: Log, stream: int) -> int:
    """Number of lines of a stream; each has the number and checksum that it should have."""
    data = b"".join(chunk.data for chunk in read(log, streams={stream}))
    assert data.endswith(b"\n")
    lines = data[:-1].split(b"\n")
    for number, line in enumerate(lines):
        match = re.fullmatch(rb"(\d+) ([0-9a-f]{8}) (.*)", line, re.DOTALL)
        assert match, f"line {number} of stream {stream} is torn"
        assert (int(match[1]), int(match[2], 16)) == (number, zlib.crc32(match[3]))
    return len(lines)


def test_sigkill_at_any_instant_loses_and_repeats_no_byte(tmp_path: Path) -> None:
    log = Log(tmp_path / "alpha.log", ID, LogOptions(max_bytes=2 * 1024 * 1024, max_files=1000))
    log.create()
    (out, out_writer), (err, err_writer), (result, result_writer) = make_pipe(), make_pipe(), make_pipe()
    buffer = make_buffer(log)
    generator = start_generator(out_writer, err_writer, result_writer)
    for fd in (out_writer, err_writer, result_writer):
        os.close(fd)
    dice = random.Random()
    for number in range(KILLS):
        size = captured(log)
        child = capture_in_a_child(log, out, err, buffer)
        if number % 3:
            wait_until(partial(has_moved, log, size), longest=0.0002)  # else it may still be mending the log
        # Most kills early, when full pipes make long splices; some in the steady state.
        time.sleep(dice.expovariate(1 / 0.006))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    generator.send_signal(signal.SIGTERM)
    child = capture_in_a_child(log, out, err, buffer)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert generator.wait(PATIENCE) == 0
    written = tuple(int(word) for word in os.read(result, 100).split())
    for fd in (out, err, result, buffer):
        os.close(fd)
    assert (lines_of(log, STDOUT), lines_of(log, STDERR)) == written
    total = sum(len(chunk.data) for stream in (STDOUT, STDERR) for chunk in read(log, streams={stream}))
    assert captured(log) == total
    assert len(list(tmp_path.iterdir())) > 2, "the log was not rotated"


def test_the_successor_waits_until_a_killed_writer_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dying process is stood in for by one that holds the lock a while longer."""
    log = Log(tmp_path / "alpha.log", ID)
    log.create()
    dying = Log(log.path, ID)
    dying.open()
    slept: list[float] = []
    real = time.sleep

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            dying.close()
        real(seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    log.open()
    assert len(slept) >= 3
    log.close()
