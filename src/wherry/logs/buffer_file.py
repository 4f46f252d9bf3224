"""The file behind a bounded buffer: a memfd that the shim keeps, so that a buffer outlives the process that fills it.

    page 0       header; progress record (the consumer's); one entry a block (the producer's)
    page 1 + b   run records of block b (the producer's): which bytes of it came from which stream, and when
    then         the blocks, each a whole number of pages

Who died when, and what of it is known afterwards:

1. Bytes come from a pipe by splice(2) *at the file's own offset*, which the kernel moves in the same call as the bytes
   (fs/splice.c, do_splice: ``out->f_pos``). The offset belongs to the open file, which the shim shares. So whoever
   opens the buffer next knows how far the current block is filled, to the byte.
2. Everything else is written by pwrite(2) of one small record, which never crosses a page and so happens whole or not
   at all for a process that is killed: an entry before the first byte of its block, a run record before its bytes, the
   progress record before bytes are moved to the log and again when they have been.
3. Records carry a checksum over their block's sequence number, so that what an earlier use of a block left behind
   counts for nothing. It says nothing about torn records: there are none.

A *position* counts the bytes that the container wrote to both streams since the buffer was made, lost ones included.
All integers are little-endian.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from typing import NamedTuple

from wherry import errors
from wherry.logs.options import BUFFER_MAX, BUFFER_MIN

MAGIC = b"wherrybf"
VERSION = 1
PAGE = mmap.PAGESIZE
OPEN = 0xFFFF_FFFF
"""The length of a block that is still being filled."""

_HEADER = struct.Struct("<8sHHI")  # magic, version, blocks, block size
_PROGRESS = struct.Struct("<QQQQQQ")  # position, lost before, log size, segment, limit, lost
_ENTRY = struct.Struct("<QQI")  # sequence, position, length
_RUN = struct.Struct("<QIBxxxQQ")  # sequence, start, stream, wall clock, monotonic clock
_CHECKSUM = struct.Struct("<I")
_PROGRESS_AT = 64
_ENTRIES_AT = 128
_ENTRY_SIZE = 32
_RUN_SIZE = 40
RUNS_PER_BLOCK = PAGE // _RUN_SIZE
MAX_BLOCK = 256 * 1024
MAX_BLOCKS = (PAGE - _ENTRIES_AT) // _ENTRY_SIZE


class Progress(NamedTuple):
    """How far the log is, ``lost_before`` of the ``position`` bytes being gaps in it.

    ``limit`` > 0: a move is under way, of up to that many bytes from ``position`` to the end of segment ``segment``,
    whose size was ``log_size``. ``lost`` > 0: they are a marker that stands for so many bytes.
    """

    position: int = 0
    lost_before: int = 0
    log_size: int = 0
    segment: int = 0
    limit: int = 0
    lost: int = 0


class Entry(NamedTuple):
    """A block in use: ``sequence`` counts from 1, ``position`` is its first byte's, ``length`` OPEN for the last."""

    sequence: int
    position: int
    length: int


class StoredRun(NamedTuple):
    """Bytes of one stream from ``start`` (in the block) on, and when the first of them was captured."""

    start: int
    stream: int
    wall_ns: int
    monotonic_ns: int


def _sealed(body: bytes) -> bytes:
    return body + _CHECKSUM.pack(zlib.crc32(body))


def _unsealed(data: bytes, form: struct.Struct) -> tuple[int, ...] | None:
    body = data[: form.size]
    checksum = data[form.size : form.size + _CHECKSUM.size]
    return form.unpack(body) if _CHECKSUM.pack(zlib.crc32(body)) == checksum else None


class BufferFile:
    """Reads and writes the records; which of them hold is Buffer's business. Owns its descriptor."""

    def __init__(self, fd: int, blocks: int, block_size: int) -> None:
        self.fd = fd
        self.blocks = blocks
        self.block_size = block_size
        self._data_at = PAGE * (1 + blocks)

    @classmethod
    def create(cls, budget: int) -> BufferFile:
        """A new one for up to ``budget`` bytes, in blocks of an eighth of it or of MAX_BLOCK.

        Raises InvalidRequest for a budget that is not between options.BUFFER_MIN and BUFFER_MAX.
        """
        if not BUFFER_MIN <= budget <= BUFFER_MAX:
            raise errors.InvalidRequest(f"a log buffer of {budget} bytes is not between {BUFFER_MIN} and {BUFFER_MAX}")
        block_size = min(MAX_BLOCK, budget // 8 // PAGE * PAGE)
        blocks = budget // block_size
        fd = os.memfd_create("wherry-log-buffer", os.MFD_CLOEXEC)
        try:
            file = cls(fd, blocks, block_size)
            os.ftruncate(fd, file._data_at)
            os.pwrite(fd, _sealed(_HEADER.pack(MAGIC, VERSION, blocks, block_size)), 0)
            file.write_progress(Progress())
        except BaseException:
            os.close(fd)
            raise
        return file

    @classmethod
    def open(cls, fd: int) -> BufferFile:
        """Take over a descriptor of an existing one. Raises InternalError; the descriptor then stays the caller's."""
        data = os.pread(fd, PAGE, 0)
        found = _unsealed(data, _HEADER) if len(data) == PAGE else None
        if found is None or data[:8] != MAGIC:
            raise errors.InternalError(f"descriptor {fd} is no log buffer")
        _, version, blocks, block_size = found
        if version != VERSION:
            raise errors.InternalError(f"a log buffer of version {version}; this program knows version {VERSION}")
        if not 4 <= blocks <= MAX_BLOCKS or not 0 < block_size <= MAX_BLOCK or block_size % PAGE:
            raise errors.InternalError(f"a log buffer of impossible geometry: {blocks} blocks of {block_size} bytes")
        return cls(fd, blocks, block_size)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def offset_of(self, slot: int) -> int:
        """Where block ``slot`` begins in the file."""
        return self._data_at + slot * self.block_size

    def seek(self, offset: int) -> None:
        """Where the next splice goes."""
        os.lseek(self.fd, offset, os.SEEK_SET)

    def tell(self) -> int:
        return os.lseek(self.fd, 0, os.SEEK_CUR)

    def write_entry(self, slot: int, entry: Entry) -> None:
        os.pwrite(self.fd, _sealed(_ENTRY.pack(*entry)), _ENTRIES_AT + slot * _ENTRY_SIZE)

    def write_run(self, slot: int, number: int, sequence: int, run: StoredRun) -> None:
        os.pwrite(self.fd, _sealed(_RUN.pack(sequence, *run)), PAGE * (1 + slot) + number * _RUN_SIZE)

    def write_progress(self, progress: Progress) -> None:
        os.pwrite(self.fd, _sealed(_PROGRESS.pack(*progress)), _PROGRESS_AT)

    def read_progress(self) -> Progress:
        """Raises InternalError when there is none that holds."""
        found = _unsealed(os.pread(self.fd, _PROGRESS.size + _CHECKSUM.size, _PROGRESS_AT), _PROGRESS)
        if found is None:
            raise errors.InternalError("a log buffer's progress record fails its checksum")
        return Progress(*found)

    def read_entries(self) -> dict[int, Entry]:
        """By slot, without those that were never written."""
        data = os.pread(self.fd, self.blocks * _ENTRY_SIZE, _ENTRIES_AT)
        parts = (data[slot * _ENTRY_SIZE : (slot + 1) * _ENTRY_SIZE] for slot in range(self.blocks))
        found = ((slot, _unsealed(part, _ENTRY)) for slot, part in enumerate(parts))
        return {slot: Entry(*values) for slot, values in found if values is not None}

    def read_runs(self, slot: int, sequence: int) -> list[StoredRun]:
        """Of the block's use with this sequence number, in their order."""
        data = os.pread(self.fd, RUNS_PER_BLOCK * _RUN_SIZE, PAGE * (1 + slot))
        runs: list[StoredRun] = []
        for start in range(0, len(data), _RUN_SIZE):
            values = _unsealed(data[start : start + _RUN_SIZE], _RUN)
            if values is None or values[0] != sequence:
                break
            runs.append(StoredRun(*values[1:]))
        return runs

    def drop_pages(self) -> None:
        """Give the blocks' memory back to the kernel; to be called only while no block holds a byte that counts."""
        os.ftruncate(self.fd, self._data_at)
