"""The members of a tar archive, read once from front to back in bounded memory."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field

from wherry.storage.tar import headers, sparse
from wherry.storage.tar.archive import ArchiveError, Stream
from wherry.storage.tar.headers import BLOCK, Header

_CHUNK = 1 << 20
_LONGEST_NAME = 1 << 16
_LONGEST_RECORDS = 1 << 20  # an extended attribute may have 64 KiB
_LONGEST_GLOBAL_RECORDS = 1 << 16  # of all together: they are held against each member that follows
_XATTR = b"SCHILY.xattr."
_REPEATED = {b"GNU.sparse.offset", b"GNU.sparse.numbytes"}


class MemberKind(enum.Enum):
    FILE = "file"
    HARD_LINK = "hard link"
    SYMLINK = "symbolic link"
    CHARACTER = "character device"
    BLOCK = "block device"
    DIRECTORY = "directory"
    FIFO = "FIFO"


# "7" is a file laid out contiguously, "S" GNU's sparse file, "D" GNU's directory with a listing as its data.
_KINDS = {
    "0": MemberKind.FILE,
    "7": MemberKind.FILE,
    "S": MemberKind.FILE,
    "1": MemberKind.HARD_LINK,
    "2": MemberKind.SYMLINK,
    "3": MemberKind.CHARACTER,
}
_KINDS |= {"4": MemberKind.BLOCK, "5": MemberKind.DIRECTORY, "D": MemberKind.DIRECTORY, "6": MemberKind.FIFO}
# The other types have no data, whatever their size field says: that of a hard link is often the file's.
_WITH_DATA = "07SD"


@dataclass(slots=True)
class Member:
    """What a member asks for. Names are bytes as they stand in the archive: any byte but NUL."""

    name: bytes
    kind: MemberKind
    mode: int  # permission bits with set-user-ID, set-group-ID and sticky
    uid: int
    gid: int
    mtime: int  # nanoseconds since the epoch
    size: int = 0  # bytes of the file once it is made, holes included
    link: bytes = b""  # of a symbolic link its content, of a hard link the name of an earlier member
    major: int = 0
    minor: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    parts: sparse.Map = field(default_factory=list)  # where the data that the archive holds belongs in the file


@dataclass(slots=True)
class _Extension:
    """What header blocks before a member's own say of it."""

    name: bytes = b""
    link: bytes = b""
    records: dict[bytes, bytes] = field(default_factory=dict)
    is_there: bool = False


class Archive:
    """Iterate over the members; before the next one is asked for, ``data`` gives the content of the last one.

    Both raise ArchiveError for what is corrupt, truncated or unknown. The iteration ends only when the end-of-archive
    mark was there and the rest of the stream is read, so that a checksum at its end has been compared.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._offset = 0
        self._unread = 0
        self._padding = 0
        self._globals: dict[bytes, bytes] = {}
        self._globals_size = 0

    def __iter__(self) -> Iterator[Member]:
        while True:
            self._skip(self._unread + self._padding)
            self._unread = self._padding = 0
            start = self._offset
            try:
                member = self._next()
            except ArchiveError as error:
                raise ArchiveError(
                    f"{error} (member at byte {start} of the tar data)" if start else str(error)
                ) from error
            if member is None:
                return
            yield member

    def data(self, member: Member) -> Iterator[tuple[int, memoryview]]:
        """The content of the member that the iteration gave last: (offset in the file, bytes)."""
        for offset, length in member.parts:
            done = 0
            while done < length:
                piece = self._read(min(length - done, _CHUNK))
                self._unread -= len(piece)
                yield offset + done, piece
                done += len(piece)

    def _next(self) -> Member | None:
        extension = _Extension()
        while True:
            block = self._first_block() if self._offset == 0 else self._block()
            if block == headers.ZEROS:
                if extension.is_there:
                    raise ArchiveError("the archive ends after an extended header")
                self._drain()
                return None
            header = headers.parse(block)
            if header.type in _KINDS:
                return self._member(header, block, extension)
            self._extend(extension, header)

    def _extend(self, extension: _Extension, header: Header) -> None:
        extension.is_there = True
        match header.type:
            case "L":
                extension.name = headers.text(self._content(header, _LONGEST_NAME), 0, header.size)
            case "K":
                extension.link = headers.text(self._content(header, _LONGEST_NAME), 0, header.size)
            case "x" | "X":
                extension.records = _collect(self._content(header, _LONGEST_RECORDS))
            case "g":
                extension.is_there = False
                self._globals |= _collect(self._content(header, _LONGEST_GLOBAL_RECORDS - self._globals_size))
                self._globals_size += header.size
            case "V":  # the volume's label
                extension.is_there = False
                self._skip(_padded(header.size))
            case "M":
                raise ArchiveError("it is a later part of an archive of several volumes")
            case _:
                raise ArchiveError(f"unknown member type {header.type!r}")

    def _member(self, header: Header, block: bytes, extension: _Extension) -> Member:
        records = _without_deleted(self._globals | extension.records)
        member = Member(
            name=records.get(b"GNU.sparse.name") or records.get(b"path") or extension.name or header.name,
            kind=_KINDS[header.type],
            mode=header.mode & 0o7777,
            uid=_owner(records.get(b"uid"), header.uid),
            gid=_owner(records.get(b"gid"), header.gid),
            mtime=_time(records.get(b"mtime"), header.mtime),
            link=records.get(b"linkpath") or extension.link or header.link,
            major=header.major,
            minor=header.minor,
            xattrs={key.removeprefix(_XATTR): value for key, value in records.items() if key.startswith(_XATTR)},
        )
        if member.kind is MemberKind.FILE and member.name.endswith(b"/"):
            # Unix V7 had no letter for directories. Asked of the whole name: the header's may be cut off at a slash.
            member.kind = MemberKind.DIRECTORY
        if b"\0" in member.name + member.link:
            raise ArchiveError("a name has a NUL in it")
        if header.type in _WITH_DATA:
            size = records.get(b"size")
            stored = header.size if size is None else headers.decimal(size, "pax record size")
            self._unread, self._padding = stored, _padded(stored) - stored
            if member.kind is MemberKind.FILE:
                self._place_data(member, header, block, records)
        return member

    def _place_data(self, member: Member, header: Header, block: bytes, records: dict[bytes, bytes]) -> None:
        if header.type == "S":
            member.parts, member.size = sparse.gnu_map(block, self._block)
        elif records.get(b"GNU.sparse.major") == b"1":
            member.parts, used = sparse.data_map(self._block)
            self._unread -= used
            member.size = headers.decimal(records.get(b"GNU.sparse.realsize", b""), "a sparse file's size")
        elif (parts := sparse.pax_map(records)) is not None:
            member.parts = parts
            member.size = headers.decimal(records.get(b"GNU.sparse.size", b""), "a sparse file's size")
        else:
            member.parts, member.size = [(0, self._unread)], self._unread
        sparse.check(member.parts, self._unread, member.size)

    def _content(self, header: Header, limit: int) -> bytes:
        if header.size > limit:
            raise ArchiveError(f"an extended header of {header.size} bytes is too large")
        return self._exactly(_padded(header.size))[: header.size]

    def _first_block(self) -> bytes:
        block = self._exactly(BLOCK, "it is not a tar archive")
        if block != headers.ZEROS:
            try:
                headers.parse(block)
            except ArchiveError:
                raise ArchiveError("it is not a tar archive") from None
        return block

    def _block(self) -> bytes:
        return self._exactly(BLOCK)

    def _exactly(self, size: int, otherwise: str = "") -> bytes:
        pieces = []
        while size:
            piece = self._read(size, otherwise)
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def _read(self, size: int, otherwise: str = "") -> memoryview:
        piece = self._stream.read(size)
        if not piece:
            raise ArchiveError(
                otherwise or f"truncated: the tar data ends at byte {self._offset} without an end-of-archive mark"
            )
        self._offset += len(piece)
        return piece

    def _skip(self, size: int) -> None:
        while size:
            size -= len(self._read(min(size, _CHUNK)))

    def _drain(self) -> None:
        while self._stream.read(_CHUNK):
            pass


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _collect(data: bytes) -> dict[bytes, bytes]:
    """The records by keyword; those that sparse format 0.0 repeats, joined by commas."""
    records: dict[bytes, bytes] = {}
    repeated: dict[bytes, list[bytes]] = {keyword: [] for keyword in _REPEATED}
    for keyword, value in headers.pax_records(data):
        if keyword in _REPEATED:
            repeated[keyword].append(value)
        else:
            records[keyword] = value
    return records | {keyword: b",".join(values) for keyword, values in repeated.items() if values}


def _without_deleted(records: dict[bytes, bytes]) -> dict[bytes, bytes]:
    # POSIX: an empty value takes back what a global header said. An extended attribute may well be empty.
    return {keyword: value for keyword, value in records.items() if value or keyword.startswith(_XATTR)}


def _owner(record: bytes | None, value: int) -> int:
    if record is not None:
        value = headers.decimal(record, "pax record uid or gid")
    if value >= 2**32 - 1:  # 2**32 - 1 means "unchanged" to chown(2)
        raise ArchiveError(f"owner {value} is too large")
    return value


def _time(record: bytes | None, seconds: int) -> int:
    value = seconds * 10**9 if record is None else headers.nanoseconds(record)
    if abs(value) >= 2**62 * 10**9:
        raise ArchiveError("a time is too far away")
    return value
