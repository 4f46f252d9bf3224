"""The bounded buffer between capture and log: one a container, with a budget of its own.

It is a queue of blocks in a memfd (buffer_file.py). The producer fills the last block, the consumer empties the first
one. When no block is free the buffer is *full*: in blocking mode the producer leaves the bytes in the pipe, where the
kernel makes the container wait; in non-blocking mode the oldest block gives way, and the jump in positions that it
leaves becomes a gap marker when the consumer gets there.

No method of Buffer locks: each says who calls it, and whether with the pipeline's mutex held (jobs.py has the rules).
"""

from __future__ import annotations

import os
import time
from collections import deque
from typing import NamedTuple

from wherry import errors
from wherry.logs.buffer_file import OPEN, RUNS_PER_BLOCK, BufferFile, Entry, Progress, StoredRun

RUN_INTERVAL_NS = 5_000_000
"""A run is cut after this time. It bounds the error of a time stamp, and the index's growth to 6.4 kB/s per log."""

MANY_BYTES = 64 * 1024
"""An empty buffer that has held less since gives no memory back: it is not worth the system call."""


class BufferStats(NamedTuple):
    """Counters since this process captures the container, except for the two positions, which outlive it.

    ``bytes_in`` and ``bytes_out`` count what has entered the buffer and what has left it for the log, ``lost_bytes``
    what gave way; ``high_water_bytes`` is the most that the buffer held; ``times_full`` and ``full_ns`` say how often
    and how long it was full. bytes_in = bytes_out + lost_bytes + held_bytes.
    """

    bytes_in: int = 0
    bytes_out: int = 0
    lost_bytes: int = 0
    held_bytes: int = 0
    high_water_bytes: int = 0
    budget_bytes: int = 0
    times_full: int = 0
    full_ns: int = 0


class Piece(NamedTuple):
    """Bytes of one run for the log: ``size`` of them at ``offset`` in the file ``fd``."""

    fd: int
    offset: int
    size: int
    stream: int
    wall_ns: int
    monotonic_ns: int


class Gap(NamedTuple):
    """So many bytes are not in the buffer any more."""

    lost: int


class _Block:
    def __init__(self, slot: int, entry: Entry) -> None:
        self.slot = slot
        self.sequence = entry.sequence
        self.position = entry.position
        self.length = 0 if entry.length == OPEN else entry.length
        self.is_open = entry.length == OPEN
        self.runs: list[StoredRun] = []
        self.drained_runs = 0


class Buffer:
    """Made for a new file, or by recover() for one that has been used; owns its file."""

    def __init__(self, file: BufferFile, *, drops: bool) -> None:
        self._file = file
        self._drops = drops
        self._blocks: deque[_Block] = deque()
        self._free = list(range(file.blocks))
        self._sequence = 0
        self._position = 0  # of the next byte to come in
        self._progress = Progress()
        self._taken = 0  # bytes of the first block that are in the log
        self._is_claimed = False
        self._is_filling = False
        self._held = self._high_water = self._times_full = self._full_ns = 0
        self._lost = 0
        self._full_since = 0
        self._given_back_at = 0

    @classmethod
    def recover(cls, file: BufferFile, progress: Progress, *, drops: bool = False) -> Buffer:
        """Go on with the buffer of a process that was killed; ``progress`` is what is true of the log now.

        Takes the file over.
        """
        buffer = cls(file, drops=drops)
        buffer._progress = progress
        file.write_progress(progress)
        entries = sorted(file.read_entries().items(), key=lambda item: item[1].sequence)
        for slot, entry in entries:
            buffer._adopt(slot, entry)
        buffer._high_water = buffer._held
        buffer._lost = buffer._position - buffer._held - (progress.position - progress.lost_before)
        return buffer

    def _adopt(self, slot: int, entry: Entry) -> None:
        self._sequence = entry.sequence
        block = _Block(slot, entry)
        start = self._file.offset_of(slot)
        if block.is_open:
            block.length = self._file.tell() - start
            if not 0 <= block.length <= self._file.block_size:
                raise errors.InternalError(f"a log buffer's offset is not in its open block but {block.length} from it")
        self._position = block.position + block.length
        if not block.is_open and self._position <= self._progress.position:
            return  # all of it is in the log
        block.runs = [run for run in self._file.read_runs(slot, block.sequence) if run.start < block.length]
        if not self._blocks:
            self._taken = max(0, self._progress.position - block.position)
        self._held += block.length - (0 if self._blocks else self._taken)
        self._blocks.append(block)
        self._free.remove(slot)

    @property
    def is_empty(self) -> bool:
        """Nothing to do for the consumer. With the mutex."""
        return not self._held and not self._gap()

    def close(self) -> None:
        self._file.close()

    # The producer's.

    def reserve(self, stream: int) -> int:
        """Make room for bytes of ``stream``; returns how many may now be spliced, 0 when the buffer is full.

        With the mutex. Writes the entry and the run record that name the bytes to come.
        """
        block = self._blocks[-1] if self._blocks and self._blocks[-1].is_open else None
        now = time.monotonic_ns()
        if block is None or not self._can_take(block, stream, now):
            block = self._next_block(block)
            if block is None:
                self._note_full(now)
                return 0
        self._note_room(now)
        self._begin_run(block, stream, now)
        self._is_filling = True
        return self._file.block_size - block.length

    def splice(self, pipe: int, limit: int) -> int:
        """Move up to ``limit`` bytes (what reserve() gave) into the file: without the mutex. 0: the pipe is at its end.

        Raises BlockingIOError when it is empty. commit() must follow in any case.
        """
        return os.splice(pipe, self._file.fd, limit, flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE)

    def commit(self, moved: int) -> None:
        """Let the consumer have what was spliced, 0 if nothing was. With the mutex."""
        self._is_filling = False
        self._blocks[-1].length += moved
        self._position += moved
        self._held += moved
        self._high_water = max(self._high_water, self._held)

    def _can_take(self, block: _Block, stream: int, now: int) -> bool:
        """Whether the block has room for a byte of the stream, and for a run record if that takes one."""
        if block.length == self._file.block_size:
            return False
        return len(block.runs) < RUNS_PER_BLOCK or self._goes_on(block, stream, now) or self._is_idle_run(block)

    def _goes_on(self, block: _Block, stream: int, now: int) -> bool:
        run = block.runs[-1] if block.runs else None
        return run is not None and run.stream == stream and now - run.monotonic_ns < RUN_INTERVAL_NS

    def _is_idle_run(self, block: _Block) -> bool:
        """The last run got no bytes: its pipe was empty after all."""
        return bool(block.runs) and block.runs[-1].start == block.length

    def _begin_run(self, block: _Block, stream: int, now: int) -> None:
        if self._goes_on(block, stream, now):
            return
        if self._is_idle_run(block):
            block.runs.pop()
        run = StoredRun(block.length, stream, time.time_ns(), now)
        self._file.write_run(block.slot, len(block.runs), block.sequence, run)
        block.runs.append(run)

    def _next_block(self, last: _Block | None) -> _Block | None:
        if not self._free and not (self._drops and self._give_way()):
            return None
        if last is not None:
            self._file.write_entry(last.slot, Entry(last.sequence, last.position, last.length))
            last.is_open = False
            self._drop_drained()
        slot = self._free.pop()  # the one used last: its pages are still in the processor's cache
        self._sequence += 1
        entry = Entry(self._sequence, self._position, OPEN)
        # First there, then the entry. The other way round, whoever is killed in between leaves an empty block whose
        # offset is still at the end of the last one; and if that was in the same place, the block seems to be full.
        self._file.seek(self._file.offset_of(slot))
        self._file.write_entry(slot, entry)
        block = _Block(slot, entry)
        self._blocks.append(block)
        return block

    def _give_way(self) -> bool:
        """Drop the oldest block that the consumer is not working on, and that is not the one being filled."""
        number = 1 if self._is_claimed else 0
        if len(self._blocks) < number + 2:
            return False
        block = self._blocks[number]
        del self._blocks[number]
        dropped = block.length - (self._taken if number == 0 else 0)
        if number == 0:
            self._taken = 0
        self._held -= dropped
        self._lost += dropped
        self._times_full += 1
        self._free.append(block.slot)
        return True

    def _note_full(self, now: int) -> None:
        if not self._full_since:
            self._full_since = now
            self._times_full += 1

    def _note_room(self, now: int) -> None:
        if self._full_since:
            self._full_ns += now - self._full_since
            self._full_since = 0

    # The consumer's.

    def claim(self) -> Piece | Gap | None:
        """What comes next for the log; None when there is nothing. With the mutex; release() must follow."""
        self._drop_drained()
        gap = self._gap()
        if gap:
            return Gap(gap)
        if not self._held:
            return None
        block = self._blocks[0]
        self._is_claimed = True
        number, end = self._run_at(block)
        run = block.runs[number]
        offset = self._file.offset_of(block.slot) + self._taken
        return Piece(self._file.fd, offset, end - self._taken, run.stream, run.wall_ns, run.monotonic_ns)

    def moving(self, log_size: int, segment: int, limit: int, lost: int = 0) -> None:
        """To be called before bytes are written to the log, so that whoever takes over knows what may be there."""
        position, lost_before = self._progress[:2]
        self._file.write_progress(Progress(position, lost_before, log_size, segment, limit, lost))

    def moved(self, count: int, lost: int = 0) -> None:
        """To be called when ``count`` bytes of the claimed piece are in the log, or a marker for ``lost`` bytes is."""
        position, lost_before = self._progress[:2]
        self._progress = Progress(position + count + lost, lost_before + lost)
        self._file.write_progress(self._progress)

    def release(self, count: int) -> None:
        """End a claim, of a piece of which moved() has told ``count`` bytes, or of a gap. With the mutex."""
        if self._is_claimed:
            self._is_claimed = False
            self._taken += count
            self._held -= count
        self._drop_drained()

    def give_back(self) -> None:
        """Let go of the memory of an empty buffer. With the mutex."""
        if self.is_empty and not self._is_filling and self._position - self._given_back_at >= MANY_BYTES:
            self._file.drop_pages()
            self._given_back_at = self._position

    @property
    def has_room(self) -> bool:
        """With the mutex."""
        return bool(self._free) or self._drops

    def stats(self) -> BufferStats:
        """With the mutex."""
        full_ns = self._full_ns + (time.monotonic_ns() - self._full_since if self._full_since else 0)
        return BufferStats(
            bytes_in=self._position,
            bytes_out=self._position - self._held - self._lost,
            lost_bytes=self._lost,
            held_bytes=self._held,
            high_water_bytes=self._high_water,
            budget_bytes=self._file.blocks * self._file.block_size,
            times_full=self._times_full,
            full_ns=full_ns,
        )

    def _gap(self) -> int:
        """How many bytes are missing between what is in the log and what comes first in the buffer."""
        first = self._blocks[0].position + self._taken if self._blocks else self._position
        return first - self._progress.position

    def _run_at(self, block: _Block) -> tuple[int, int]:
        """The run that the next byte of the block belongs to, and where its bytes end."""
        number = block.drained_runs
        while number + 1 < len(block.runs) and block.runs[number + 1].start <= self._taken:
            number += 1
        block.drained_runs = number
        end = block.runs[number + 1].start if number + 1 < len(block.runs) else block.length
        return number, end

    def _drop_drained(self) -> None:
        while self._blocks and not self._blocks[0].is_open and self._taken == self._blocks[0].length:
            if self._is_claimed:
                return
            self._free.append(self._blocks.popleft().slot)
            self._taken = 0
