"""A model of the log pipeline: interleavings of its threads, its container, its disk and its end, as hypothesis finds.

The real Pipeline, Exchange, Producer, Consumer, Buffer, BufferFile, Log and Writer, without threads. Each rule is one
step of the producer (poll, reserve, splice, commit), of the consumer (take a job, claim, write, release), of the
container (write to a stream, exit), of the disk (full after so many bytes, emptied) or of the supervisor: finish(),
abandon(), an orderly shutdown with take-over, a SIGKILL. After a kill nothing is left but the descriptors that the shim
keeps and the files. logsteps.Container keeps account of what was taken out of the pipes, in its order.

Always true: each byte in the log, and each byte that a marker counts, is the next one that was taken out of a pipe, of
the right stream; none twice, none missing; no marker in blocking mode. The buffer's counters add up, within its budget.
When both threads would sleep and the disk works: pipes and buffer are empty (no lost wake-up), or a reader that is owed
every byte holds the log back. No byte is deleted that such a reader has not come to, and no more files are kept for it
than are allowed. In the end, after an exit or finish(), the log is complete and done() has been called exactly once by
the supervisor that saw it, whether or not the reader has read.

Not covered: what two threads do inside of a step, which the mutex forbids (test_logs_capture.py runs the threads);
kills in the middle of a step (test_logs_kill_points.py); more than one container; what
readers see (test_logs_follow.py, test_logs_holds.py).

WHERRY_CHAOS=1 explores far more.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.exploring import IS_CHAOS, exploration
from tests.logsteps import BUDGET, STREAMS, Container, Supervisor

from wherry.logs import Hold, LogOptions
from wherry.logs.options import MODES, Mode

HELD_FILES = 2
SIZES = st.sampled_from([1, 3, 100, 1000, 4096, 5000, 16384])


class LogPipeline(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        logging.disable(logging.CRITICAL)
        self.folder = Path(tempfile.mkdtemp(prefix="wherry-model-"))
        self.is_over = self.is_abandoned = False
        self.hold: Hold | None = None

    @initialize(
        mode=st.sampled_from(MODES),
        max_bytes=st.sampled_from([0, 300, 3000, 30_000]),
        interval=st.sampled_from([0, 10**18]),
        runs=st.sampled_from([1, 3, 100]),
        idle=st.sampled_from([0.0, 1e9]),
        max_files=st.sampled_from([1, 3]),
    )
    def start(self, mode: Mode, max_bytes: int, interval: int, runs: int, idle: float, max_files: int) -> None:
        self.is_blocking = mode == "blocking"
        self.max_files = max_files if self.is_blocking else 10**6
        self.patches: list[Any] = [
            mock.patch("wherry.logs.drain.FIRST_RETRY_SECONDS", 0.0),
            mock.patch("wherry.logs.drain.LAST_RETRY_SECONDS", 0.0),
            mock.patch("wherry.logs.drain.IDLE_SECONDS", idle),
            mock.patch("wherry.logs.buffer.MANY_BYTES", 1),
            mock.patch("wherry.logs.holds.HELD_FILES", HELD_FILES),
            mock.patch("wherry.logs.buffer.RUN_INTERVAL_NS", interval),
            mock.patch("wherry.logs.buffer.RUNS_PER_BLOCK", runs),
        ]
        self.container = Container(self.folder, LogOptions(mode=mode, max_bytes=max_bytes, max_files=self.max_files))
        for patch in self.patches:
            patch.start()
        self.disk = self.container.disk.mounted()
        self.disk.__enter__()
        self._take_over()

    def _take_over(self) -> None:
        self.one: Supervisor = self.container.take_over()
        self.one.add()

    # The container and its disk.

    @precondition(lambda self: not self.container.has_exited)
    @rule(stream=st.sampled_from(STREAMS), size=SIZES)
    def write(self, stream: int, size: int) -> None:
        self.container.write(stream, size)

    @precondition(lambda self: not self.container.has_exited)
    @rule(stream=st.sampled_from(STREAMS))
    def fill(self, stream: int) -> None:
        """More than the buffer holds, with nobody to drain it."""
        for _ in range(4):
            self.container.write(stream, 16384)
            for _ in range(6):
                self.one.produce()

    @precondition(lambda self: not self.container.has_exited)
    @rule()
    def exit(self) -> None:
        self.container.exit()

    @rule(room=st.sampled_from([0, 1, 40, 2000, 9000]))
    def fill_disk(self, room: int) -> None:
        self.container.disk.room = room

    @rule()
    def empty_disk(self) -> None:
        self.container.disk.room = None

    # The producer.

    @rule()
    def poll(self) -> None:
        self.one.poll()

    @rule()
    def reserve(self) -> None:
        self.one.reserve()

    @rule()
    def splice(self) -> None:
        self.one.splice()

    @rule()
    def commit(self) -> None:
        self.one.commit()

    @rule(turns=st.integers(1, 9))
    def produce(self, turns: int) -> None:
        for _ in range(turns):
            self.one.produce()

    # The consumer.

    @rule()
    def next(self) -> None:
        self.one.next()

    @rule()
    def claim(self) -> None:
        self.one.claim_piece()

    @rule()
    def write_log(self) -> None:
        self.one.write()

    @rule()
    def release(self) -> None:
        self.one.release()

    @rule(turns=st.integers(1, 9))
    def consume(self, turns: int) -> None:
        for _ in range(turns):
            self.one.consume()

    # A reader that is owed every byte.

    @precondition(lambda self: self.hold is None)
    @rule()
    def attach(self) -> None:
        self.hold = self.one.log.watch()

    @precondition(lambda self: not self.container.has_exited)
    @rule(stream=st.sampled_from(STREAMS), then=st.sampled_from(["stalls", "reads", "leaves"]))
    def overtake_reader(self, stream: int, then: str) -> None:
        """More than the reader's files take."""
        if self.hold is None:
            self.attach()
        for _ in range(6):
            self.container.write(stream, 4096)
            self.one.run_dry()
        if then == "reads":
            self.read(10**9)
        elif then == "leaves":
            self.leave()
        self.run_dry()

    @precondition(lambda self: self.hold is not None)
    @rule(size=SIZES)
    def read(self, size: int) -> None:
        assert self.hold is not None
        self.hold.move_to(min(self.hold.position + size, self.one.log.size))

    @precondition(lambda self: self.hold is not None)
    @rule()
    def leave(self) -> None:
        assert self.hold is not None
        self.hold.release()
        self.hold = None

    @invariant()
    def nothing_that_is_held_goes(self) -> None:
        if not hasattr(self, "one") or not self.one.log.is_open:
            return
        older, writer = self.one.log._older, self.one.log._writer
        assert len(older) < self.max_files + HELD_FILES
        assert all(file.path.exists() for file in older)
        if self.hold is not None and writer is not None:
            assert (older[0].start if older else writer.header.start) <= self.hold.position

    # The supervisor.

    @precondition(lambda self: self.container.has_exited)
    @rule()
    def expect_end(self) -> None:
        self.one.log.expect_end()

    @rule()
    def run_dry(self) -> None:
        self.one.run_dry()
        if self.one.log._is_held_back and self.container.disk.room is None:
            assert self.hold is not None
            assert self.hold.position < self.one.log.size
        elif self.container.disk.room is None and not self.is_over:
            self._check_nothing_is_left()

    @rule()
    def kill(self) -> None:
        self.one.kill()
        self.container.check(is_blocking=self.is_blocking)
        self._renew()

    @rule()
    def hand_over(self) -> None:
        self.one.leave()
        self._renew()

    @precondition(lambda self: not self.is_over)
    @rule()
    def finish(self) -> None:
        """What is in the pipes at that moment is the end of the log."""
        self.container.finished_by_request = True
        self.one.pipeline.finish(self.one.log)
        self.is_over = True

    @rule()
    def abandon(self) -> None:
        self.container.finished_by_request = True
        self.one.pipeline.abandon(self.one.log)
        self.is_over = self.is_abandoned = True

    def _renew(self) -> None:
        self.is_over = self.is_abandoned = False
        self.hold = None  # its connection is cut
        self._take_over()

    def _check_nothing_is_left(self) -> None:
        assert self.one.done == int(self.container.has_exited), "the end was missed, or seen too early"
        if not self.one.done:
            assert self.one.stats().held_bytes == 0
        self.container.check_complete(is_blocking=self.is_blocking)

    @invariant()
    def counters_add_up(self) -> None:
        if not hasattr(self, "one"):
            return
        stats = self.one.stats()
        assert stats.bytes_in == stats.bytes_out + stats.lost_bytes + stats.held_bytes
        assert 0 <= stats.held_bytes <= stats.high_water_bytes <= stats.budget_bytes == BUDGET
        assert min(stats) >= 0
        assert self.one.done <= 1
        if self.is_blocking:
            assert stats.lost_bytes == 0

    def teardown(self) -> None:
        if hasattr(self, "one"):
            try:
                self._end()
            finally:
                self.one.kill()
                self.disk.__exit__(None, None, None)
                for patch in self.patches:
                    patch.stop()
                self.container.close()
        logging.disable(logging.NOTSET)
        shutil.rmtree(self.folder)

    def _end(self) -> None:
        self.container.disk.room = None
        self.container.exit()
        self.one.log.expect_end()
        self.one.run_dry()
        assert self.one.done == 1
        assert not self.one.exchange.jobs
        if self.is_abandoned:
            self.container.check(is_blocking=self.is_blocking)
        else:
            self.container.check_complete(is_blocking=self.is_blocking)


pytestmark = pytest.mark.timeout(0 if IS_CHAOS else 300)  # seconds alone, minutes on a machine full of guests

TestLogPipeline = LogPipeline.TestCase
TestLogPipeline.settings = exploration(60, 50, in_chaos=(20_000, 200))
