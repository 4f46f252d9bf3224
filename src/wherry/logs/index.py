"""The index beside a log: which bytes came from which stream, and when (docs/log-format.md).

A header, then records of one size. A record says where a run of bytes of one stream begins, or the text that stands
for bytes that were lost; it ends where the next record begins, or at the end of the file. Records are written *before*
their bytes, so that all bytes of a log have a record, whenever the writer was killed. A record at or behind the end of
the log has no bytes yet: it is provisional, may still be overwritten, and no reader may act on it. All others never
change, and their offsets strictly increase.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from wherry import errors
from wherry.logs.files import ReadFile

STDOUT = 1
STDERR = 2
GAP = 0
"""The "stream" of a gap marker: it belongs to both."""

MAGIC = b"wherryix"
VERSION = 2
_HEADER = struct.Struct("<8sHHHHQ64sQQI")
# magic, version, header size, record size, 0, created, container id, sequence, start, 0
_RECORD = struct.Struct("<QQQBBBB")  # offset, wall clock, monotonic clock or lost bytes, stream, kind, line, 0
_KIND_BYTES = 0
_KIND_GAP = 1
_CHECKSUM = struct.Struct("<I")  # CRC-32 of all before it
HEADER_SIZE = _HEADER.size + _CHECKSUM.size
RECORD_SIZE = _RECORD.size + _CHECKSUM.size
ID_SIZE = 64
_BATCH = 512
_LINE_CODES = {None: 0, True: 1, False: 2}
_LINE_VALUES = {code: value for value, code in _LINE_CODES.items()}


class DamagedIndex(Exception):
    """The header cannot be read; what its records say is unknown. Raised and handled inside this package."""


class IndexRecord(NamedTuple):
    """The start of a run: its offset in the file, STDOUT or STDERR, and both clocks in nanoseconds (0 = unknown).

    ``begins_line`` is false when the last byte of the stream before the run is not a newline, None when the writer did
    not know. Without it, finding the beginning of a line whose stream is silent otherwise takes a search of the index.

    With the stream GAP it is a marker's, ``lost`` is the number of bytes that it stands for, and ``begins_line`` says
    whether it had to begin with a newline of its own (false) because a line was open.
    """

    offset: int
    stream: int
    wall_ns: int
    monotonic_ns: int
    begins_line: bool | None
    lost: int = 0


class IndexHeader(NamedTuple):
    """``sequence`` numbers the files of a rotated log from 1; ``start`` is how long all before this one were."""

    container_id: str
    created_ns: int
    sequence: int = 1
    start: int = 0


UNRECORDED = IndexRecord(0, STDOUT, 0, 0, True)
"""What bytes before the first record count as: a log whose index was lost, or a file that never had one."""


def _sealed(body: bytes) -> bytes:
    return body + _CHECKSUM.pack(zlib.crc32(body))


def _unsealed(data: bytes) -> bytes | None:
    body, checksum = data[: -_CHECKSUM.size], data[-_CHECKSUM.size :]
    return body if _CHECKSUM.pack(zlib.crc32(body)) == checksum else None


def pack_header(header: IndexHeader) -> bytes:
    """Raises InvalidRequest for an id that does not fit (64 ASCII characters)."""
    container_id = header.container_id.encode("ascii", "replace")
    if not header.container_id.isascii() or len(container_id) > ID_SIZE:
        raise errors.InvalidRequest(f"container id {header.container_id!r} is not up to {ID_SIZE} ASCII characters")
    return _sealed(
        _HEADER.pack(
            MAGIC,
            VERSION,
            HEADER_SIZE,
            RECORD_SIZE,
            0,
            header.created_ns,
            container_id,
            header.sequence,
            header.start,
            0,
        )
    )


def read_header(file: ReadFile, path: Path) -> IndexHeader:
    """Raises DamagedIndex, or NotSupported for an index that another version of this program wrote."""
    data = file.read(HEADER_SIZE, 0)
    if len(data) < len(MAGIC) + 2 or not data.startswith(MAGIC):
        raise DamagedIndex(f"{path} has no header of a log index")
    version = int.from_bytes(data[len(MAGIC) : len(MAGIC) + 2], "little")
    if version != VERSION:  # before the checksum: another version may keep it elsewhere
        raise errors.NotSupported(f"log index {path} has version {version}; this program reads version {VERSION}")
    body = _unsealed(data) if len(data) == HEADER_SIZE else None
    if body is None:
        raise DamagedIndex(f"the header of log index {path} fails its checksum")
    _, _, header_size, record_size, _, created_ns, container_id, sequence, start, _ = _HEADER.unpack(body)
    if (header_size, record_size) != (HEADER_SIZE, RECORD_SIZE):
        raise DamagedIndex(f"the header of log index {path} has sizes of another format")
    return IndexHeader(container_id.rstrip(b"\0").decode("ascii", "replace"), created_ns, sequence, start)


def pack_record(record: IndexRecord) -> bytes:
    line = _LINE_CODES[record.begins_line]
    is_gap = record.stream == GAP
    kind, third = (_KIND_GAP, record.lost) if is_gap else (_KIND_BYTES, record.monotonic_ns)
    return _sealed(_RECORD.pack(record.offset, record.wall_ns, third, record.stream, kind, line, 0))


def unpack_record(data: bytes) -> IndexRecord | None:
    """None when the checksum does not hold. An unknown ``kind`` (of a later version) is read as bytes of its stream."""
    body = _unsealed(data)
    if body is None:
        return None
    offset, wall_ns, third, stream, kind, line, _ = _RECORD.unpack(body)
    begins_line = _LINE_VALUES.get(line)
    if kind == _KIND_GAP:
        return IndexRecord(offset, GAP, wall_ns, 0, begins_line, third)
    return IndexRecord(offset, stream, wall_ns, third, begins_line)


class Index:
    """Reads the records of an index by their numbers; None instead of a file stands for a log without index."""

    def __init__(self, file: ReadFile | None) -> None:
        self._file = file

    @property
    def is_missing(self) -> bool:
        return self._file is None

    def count(self) -> int:
        """Number of whole records. A torn one at the end does not count: it is provisional, or rotten."""
        return 0 if self._file is None else max(0, (self._file.size() - HEADER_SIZE) // RECORD_SIZE)

    def record(self, number: int) -> IndexRecord | None:
        return next(iter(self.slots(number, 1)), None)

    def slots(self, first: int, count: int) -> list[IndexRecord | None]:
        """Records ``first`` to ``first + count``, fewer at the end; None stands for one that fails its checksum."""
        if self._file is None:
            return []
        data = self._file.read(count * RECORD_SIZE, HEADER_SIZE + first * RECORD_SIZE)
        ends = range(RECORD_SIZE, len(data) + 1, RECORD_SIZE)
        return [unpack_record(data[end - RECORD_SIZE : end]) for end in ends]

    def following(self, first: int, below: int) -> tuple[list[IndexRecord], int]:
        """The next batch of records with ``offset < below``, and the number to go on from."""
        records: list[IndexRecord] = []
        slots = self.slots(first, _BATCH)
        while slots and slots[-1] is None:
            slots.pop()  # may be provisional and half overwritten at this moment: not to be passed by
        for number, record in enumerate(slots, first):
            if record is not None and record.offset >= below:
                return records, number
            if record is not None:
                records.append(record)
        return records, first + len(slots)

    def preceding(self, end: int) -> Iterator[IndexRecord]:
        """The records with numbers below ``end``, last one first."""
        for stop in range(end, 0, -_BATCH):
            first = max(0, stop - _BATCH)
            yield from (record for record in reversed(self.slots(first, stop - first)) if record is not None)

    def last_at(self, offset: int) -> int:
        """Number of the last record that begins at or before ``offset``; -1 when there is none. A binary search."""
        low, high = -1, self.count()
        while high - low > 1:
            number, record = self._first_valid((low + high) // 2, high)
            if record is not None and record.offset <= offset:
                low = number
            else:
                high = (low + high) // 2
        return low

    def _first_valid(self, first: int, end: int) -> tuple[int, IndexRecord | None]:
        for number in range(first, end):
            record = self.record(number)
            if record is not None:
                return number, record
        return end, None
