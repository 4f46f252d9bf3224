"""An archive file as a stream of tar bytes: hashed as it is read, its compression known by its first bytes.

Memory stays bounded whatever the archive: compressed input is handed over in small pieces, because a piece may become
thousands of times its size (zstd 32,768, bzip2 about 23,000, xz 7,000, deflate 1,032 times).
"""

from __future__ import annotations

import bz2
import hashlib
import lzma
import os
import threading
import zlib
from collections.abc import Callable
from typing import Protocol

import zstandard

from wherry.errors import Conflict
from wherry.kernel.libc import describe_errno

_READ_SIZE = 256 * 1024
_PIECE_SIZE = 1024  # becomes at most 32 MiB
_XZ_MEMORY = 256 * 1024 * 1024  # xz -9 needs 65 MiB; the header may claim 4 GiB
_MAGIC_SIZE = 8


class ArchiveError(Exception):
    """The archive is corrupt, truncated, hostile or of a kind we do not know; ``str()`` says what and where."""


class Stream(Protocol):
    def read(self, size: int) -> memoryview:
        """1 to ``size`` bytes; none at the end. Raises ArchiveError."""


class ArchiveFile:
    """The bytes of an archive file from its beginning, with their SHA-256 so far."""

    def __init__(self, descriptor: int, stop: threading.Event) -> None:
        """``descriptor`` is a regular file; its file offset is neither used nor moved. ``stop`` ends the reading."""
        self._descriptor = descriptor
        self._stop = stop
        self._offset = 0
        self._buffer = memoryview(b"")
        self._at = 0  # what is before it has been read
        self._sha256 = hashlib.sha256()

    def read(self, size: int) -> memoryview:
        """Raises ArchiveError when the file cannot be read, Conflict once the event ``stop`` is set."""
        if self._stop.is_set():
            raise Conflict("the supervisor is shutting down")
        if self._at == len(self._buffer):
            self._fill()
        piece = self._buffer[self._at : self._at + size]
        self._at += len(piece)
        return piece

    def unread(self, count: int) -> None:
        """The last ``count`` bytes of what ``read`` just gave shall be read again."""
        self._at -= count

    def magic(self) -> bytes:
        """The first bytes of the file; call it before ``read``."""
        magic = self.read(_MAGIC_SIZE)
        self.unread(len(magic))
        return magic.tobytes()

    def digest(self) -> str:
        """SHA-256 of all bytes taken from the file, in hexadecimal digits."""
        return self._sha256.hexdigest()

    def _fill(self) -> None:
        try:
            data = os.pread(self._descriptor, _READ_SIZE, self._offset)
        except OSError as error:
            raise ArchiveError(f"read at byte {self._offset}: {describe_errno(error.errno or 0)}") from error
        self._sha256.update(data)
        self._offset += len(data)
        self._buffer = memoryview(data)
        self._at = 0


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: memoryview, /) -> bytes: ...


class _Decompressed:
    """One or more compressed streams, one after the other, as one stream.

    Not gzip.GzipFile and its kin: they differ in what they make of zeros after a stream, LZMAFile has no memory limit,
    and zstandard's stream_reader takes a truncated frame for the end of the data.
    """

    def __init__(self, file: ArchiveFile, name: str, make: Callable[[], _Decompressor]) -> None:
        self._file = file
        self._name = name
        self._make = make
        self._decompressor: _Decompressor | None = None
        self._output = memoryview(b"")

    def read(self, size: int) -> memoryview:
        while not self._output:
            piece = self._file.read(_PIECE_SIZE)
            if not piece:
                if self._decompressor is not None:
                    raise ArchiveError(f"truncated: the {self._name} data ends too early")
                return piece
            self._output = memoryview(self._decompress(piece))
        result, self._output = self._output[:size], self._output[size:]
        return result

    def _decompress(self, piece: memoryview) -> bytes:
        if self._decompressor is None:
            # Zeros between and after streams are padding (to a tape's block size, or xz's to four bytes).
            piece = memoryview(piece.tobytes().lstrip(b"\0"))
            if not piece:
                return b""
            self._decompressor = self._make()
        try:
            output = self._decompressor.decompress(piece)
        except (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError) as error:
            raise ArchiveError(f"corrupt {self._name} data: {error}") from error
        if self._decompressor.eof:
            self._file.unread(len(self._decompressor.unused_data))
            self._decompressor = None
        return output


def open_archive(file: ArchiveFile) -> Stream:
    """The tar bytes of an archive that is a plain tar or compressed by gzip, bzip2, xz or zstd."""
    magic = file.magic()
    if magic.startswith(b"\x1f\x8b"):
        return _Decompressed(file, "gzip", lambda: zlib.decompressobj(16 + zlib.MAX_WBITS))
    if magic.startswith(b"BZh"):
        return _Decompressed(file, "bzip2", bz2.BZ2Decompressor)
    if magic.startswith(b"\xfd7zXZ\0"):
        return _Decompressed(file, "xz", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY))
    if magic.startswith(b"\x28\xb5\x2f\xfd") or _is_skippable_frame(magic):
        return _Decompressed(file, "zstd", lambda: zstandard.ZstdDecompressor().decompressobj())
    return file


def _is_skippable_frame(magic: bytes) -> bool:
    # RFC 8878, section 3.1.2: 0x184D2A5?, little endian. pzstd and the seekable format begin with one.
    return magic[1:4] == b"\x2a\x4d\x18" and magic[0] >> 4 == 5
