"""Tar archives made byte by byte, so that they may say what no tar program would write."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable

import zstandard

END = bytes(1024)
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}


def octal(value: int, size: int) -> bytes:
    """A numeric field: octal digits and a NUL, or base 256 if these do not suffice."""
    if 0 <= value < 8 ** (size - 1):
        return f"{value:0{size - 1}o}\0".encode()
    encoded = bytearray(value.to_bytes(size, "big", signed=True))
    encoded[0] |= 0x80
    return bytes(encoded)


def header(
    name: bytes | str,
    type: str = "0",  # noqa: A002
    *,
    link: bytes | str = b"",
    mode: int = 0o644,
    owner: tuple[int, int] = (0, 0),
    size: int = 0,
    mtime: int = 1_000_000_000,
    device: tuple[int, int] = (0, 0),
) -> bytes:
    """A block with a right checksum, POSIX's format; before it GNU's blocks for a name or link of over 100 bytes."""
    name = name.encode() if isinstance(name, str) else name
    link = link.encode() if isinstance(link, str) else link
    if len(name) > 100 or len(link) > 100:
        rest = header(name[:100], type, link=link[:100], mode=mode, owner=owner, size=size, mtime=mtime, device=device)
        return (long_name(name) if len(name) > 100 else b"") + (long_name(link, "K") if len(link) > 100 else b"") + rest
    block = name.ljust(100, b"\0") + octal(mode, 8) + octal(owner[0], 8) + octal(owner[1], 8)
    block += octal(size, 12) + octal(mtime, 12) + b" " * 8 + type.encode() + link.ljust(100, b"\0")
    block += b"ustar\x0000" + bytes(64) + octal(device[0], 8) + octal(device[1], 8)
    return with_checksum(block.ljust(512, b"\0"))


def changed(block: bytes, at: int, content: bytes) -> bytes:
    """The header with other bytes at ``at``, and the right checksum for them."""
    return with_checksum(block[:at] + content + block[at + len(content) :])


def with_checksum(block: bytes) -> bytes:
    blank = block[:148] + b" " * 8 + block[156:]
    return block[:148] + f"{sum(blank):06o}\0 ".encode() + block[156:]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def file(name: bytes | str, data: bytes = b"", *, mode: int = 0o644, owner: tuple[int, int] = (0, 0)) -> bytes:
    return header(name, size=len(data), mode=mode, owner=owner) + padded(data)


def directory(name: bytes | str, *, mode: int = 0o755, mtime: int = 1_000_000_000) -> bytes:
    return header(name, "5", mode=mode, mtime=mtime)


def symlink(name: bytes | str, target: bytes | str) -> bytes:
    return header(name, "2", link=target, mode=0o777)


def hard_link(name: bytes | str, target: bytes | str) -> bytes:
    return header(name, "1", link=target)


def pax(records: dict[str, bytes], type: str = "x") -> bytes:  # noqa: A002
    """An extended header for the member that follows it."""
    data = b"".join(pax_record(keyword.encode(), value) for keyword, value in records.items())
    return header("pax", type, size=len(data)) + padded(data)


def pax_record(keyword: bytes, value: bytes) -> bytes:
    rest = b" " + keyword + b"=" + value + b"\n"
    size = len(rest) + 1
    while len(rest) + len(str(size)) != size:
        size += 1
    return str(size).encode() + rest


def long_name(name: bytes, type: str = "L") -> bytes:  # noqa: A002
    """GNU's header for a name (or with "K" a link's target) of more than 100 bytes."""
    return header("././@LongLink", type, size=len(name) + 1) + padded(name + b"\0")
