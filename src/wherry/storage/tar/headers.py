"""The header blocks of a tar archive: tar(5) of libarchive; GNU tar manual, "Basic Tar Format"; POSIX.1-2017, pax.

Not the standard library's tarfile. It takes a corrupt header for the end of the archive, reads headers of any size into
memory, keeps all members, decodes names and extended attributes as text, and before 3.11.10 and 3.12.6 needs time
quadratic in the size of a pax header (CVE-2024-6232: 1.5 s for 32 KiB, holding the interpreter lock that the event loop
needs).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from wherry.storage.tar.archive import ArchiveError

BLOCK = 512
ZEROS = bytes(BLOCK)


@dataclass(slots=True)
class Header:
    """The fields of one header block; ``type`` is its letter ("0" also for the NUL of old archives)."""

    name: bytes
    mode: int
    uid: int
    gid: int
    size: int  # bytes
    mtime: int  # seconds since the epoch
    type: str
    link: bytes
    major: int
    minor: int


def parse(block: bytes) -> Header:
    """Raises ArchiveError when the checksum or a field is wrong."""
    if not _checksum_is_right(block):
        raise ArchiveError("the header's checksum is wrong")
    header = Header(
        name=_prefix(block) + text(block, 0, 100),
        mode=number(block, 100, 8),
        uid=number(block, 108, 8),
        gid=number(block, 116, 8),
        size=number(block, 124, 12),
        mtime=number(block, 136, 12, signed=True),
        type=chr(block[156] or ord("0")),
        link=text(block, 157, 100),
        major=0,
        minor=0,
    )
    if header.type in "34":  # the fields are undefined for other types, and some writers fill them with anything
        header.major, header.minor = number(block, 329, 8), number(block, 337, 8)
    return header


def _checksum_is_right(block: bytes) -> bool:
    try:
        stated = number(block, 148, 8)
    except ArchiveError:
        return False
    rest = block[:148] + b" " * 8 + block[156:]
    # Some old writers summed signed characters.
    return sum(rest) == stated or sum(rest) - 256 * sum(byte > 127 for byte in rest) == stated


def _prefix(block: bytes) -> bytes:
    # GNU tar ("ustar  \0") keeps times and sparse maps where POSIX ("ustar\0") has the prefix; star's is shorter.
    if block[257:263] != b"ustar\0":
        return b""
    prefix = text(block, 345, 131 if block[508:512] == b"tar\0" else 155)
    return prefix + b"/" if prefix else b""


def text(block: bytes, at: int, size: int) -> bytes:
    """A field up to its first NUL."""
    return block[at : at + size].partition(b"\0")[0]


def number(block: bytes, at: int, size: int, *, signed: bool = False) -> int:
    """A number in octal digits, or in base 256 where the first bit is set (GNU). Raises ArchiveError."""
    field = block[at : at + size]
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * size - 1)) - 1)
        if field[0] & 0x40:
            value -= 1 << (8 * size - 1)
    else:
        digits = field.partition(b"\0")[0].strip(b" ")
        if digits.strip(b"01234567"):
            raise ArchiveError(f"the header has no octal number at byte {at}")
        value = int(digits or b"0", 8)
    if value < 0 and not signed:
        raise ArchiveError(f"the header has a negative number at byte {at}")
    return value


def decimal(value: bytes, what: str) -> int:
    """A number of a pax record or sparse map, 0 or more. Raises ArchiveError."""
    if not value.isdigit() or len(value) > 20:
        raise ArchiveError(f"{what} is no number")
    return int(value)


def nanoseconds(value: bytes) -> int:
    """A pax time such as ``1700000000.25`` or ``-1.5``, in nanoseconds since the epoch. Raises ArchiveError."""
    whole, _, fraction = value.removeprefix(b"-").partition(b".")
    if fraction and not fraction.isdigit():
        raise ArchiveError("pax record mtime is no number")
    result = decimal(whole, "pax record mtime") * 10**9 + int(fraction[:9].ljust(9, b"0"))
    return -result if value.startswith(b"-") else result


def pax_records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The (keyword, value) pairs of a pax extended header, in order. Raises ArchiveError."""
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 21)
        if space < 0:
            raise ArchiveError("the pax header is malformed")
        end = at + decimal(data[at:space], "a pax record's length")
        keyword, equals, value = data[space + 1 : end].partition(b"=")
        if end > len(data) or not (keyword and equals and value.endswith(b"\n")):
            raise ArchiveError("the pax header is malformed")
        yield keyword, value[:-1]
        at = end
