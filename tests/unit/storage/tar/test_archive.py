"""wherry.storage.tar.archive: compressed files as streams of bounded pieces."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import random
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard
from tests.tarballs import COMPRESS

from wherry.errors import Conflict
from wherry.storage.tar.archive import ArchiveError, ArchiveFile, Stream, open_archive

CONTENT = random.Random(7).randbytes(300_000) + b"the same again and again " * 40_000
COMPRESSED = [name for name in COMPRESS if name != "plain"]

Open = Callable[[bytes], ArchiveFile]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    descriptors: list[int] = []

    def open_content(content: bytes) -> ArchiveFile:
        path = tmp_path / str(len(descriptors))
        path.write_bytes(content)
        descriptors.append(os.open(path, os.O_RDONLY))
        return ArchiveFile(descriptors[-1], threading.Event())

    yield open_content
    for descriptor in descriptors:
        os.close(descriptor)


def read_all(stream: Stream, size: int = 10_000) -> bytes:
    return b"".join(iter(lambda: stream.read(size).tobytes(), b""))


@pytest.mark.parametrize("name", COMPRESS)
def test_the_compression_is_known_by_the_first_bytes(name: str, opened: Open) -> None:
    content = COMPRESS[name](CONTENT)
    file = opened(content)
    assert read_all(open_archive(file)) == CONTENT
    assert file.digest() == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("name", COMPRESSED)
def test_streams_one_after_the_other_with_padding_are_one(name: str, opened: Open) -> None:
    compress = COMPRESS[name]
    content = compress(b"one,") + compress(b"") + compress(b"two,") + bytes(2048) + compress(b"three") + bytes(512)
    assert read_all(open_archive(opened(content))) == b"one,two,three"


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_truncated_stream_is_an_error_wherever_it_ends(name: str, opened: Open) -> None:
    content = COMPRESS[name](b"some content " * 20)
    for size in range(8, len(content)):
        with pytest.raises(ArchiveError, match=f"truncated: the {name} data"):
            read_all(open_archive(opened(content[:size])))


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_changed_byte_is_an_error(name: str, opened: Open) -> None:
    content = bytearray(COMPRESS[name](CONTENT))
    content[len(content) // 3] ^= 0x10
    with pytest.raises(ArchiveError, match=f"corrupt {name} data"):
        read_all(open_archive(opened(bytes(content))))


@pytest.mark.parametrize("name", COMPRESSED)
def test_garbage_after_the_stream_is_an_error(name: str, opened: Open) -> None:
    with pytest.raises(ArchiveError, match=f"{name} data"):
        read_all(open_archive(opened(COMPRESS[name](CONTENT) + b"garbage, and more of it")))


def test_a_zstd_archive_may_begin_with_a_skippable_frame(opened: Open) -> None:
    content = b"\x5e\x2a\x4d\x18\x04\0\0\0seek" + COMPRESS["zstd"](CONTENT)
    assert read_all(open_archive(opened(content))) == CONTENT


def _bzip2_zeros(size: int) -> bytes:
    return bz2.compress(bytes(900_000)) * (size // 900_000)


BOMBS: dict[str, Callable[[int], bytes]] = {
    "gzip": lambda size: gzip.compress(bytes(size), 1),
    "bzip2": _bzip2_zeros,
    "xz": lambda size: lzma.compress(bytes(size), preset=0),
    "zstd": lambda size: zstandard.compress(bytes(size)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_decompression_bomb_comes_in_small_pieces(name: str, opened: Open) -> None:
    stream = open_archive(opened(BOMBS[name](128 << 20)))
    total = 0
    while piece := stream.read(1 << 20):
        assert isinstance(piece.obj, bytes)
        assert len(piece.obj) <= 32 << 20  # what lies in memory behind it
        total += len(piece)
    assert total > 127 << 20


def test_an_xz_dictionary_of_4_gib_is_refused(opened: Open) -> None:
    content = bytearray(lzma.compress(b"small"))
    # After the stream header of 12 bytes: size, flags, filter LZMA2 (0x21), and one byte that is the dictionary's size.
    assert content[14:16] == b"\x21\x01"
    content[16] = 40
    end = 12 + content[12] * 4
    content[end : end + 4] = zlib.crc32(content[12:end]).to_bytes(4, "little")
    with pytest.raises(ArchiveError, match=r"corrupt xz data: .*[Mm]emory"):
        read_all(open_archive(opened(bytes(content))))


def test_a_zstd_window_of_2_gib_is_refused(opened: Open) -> None:
    with pytest.raises(ArchiveError, match=r"corrupt zstd data: .*memory"):
        read_all(open_archive(opened(b"\x28\xb5\x2f\xfd" + b"\x00\xa8" + b"\x01\0\0")))


def test_reading_stops_when_told_to(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(CONTENT)
    stop = threading.Event()
    with (tmp_path / "archive").open("rb") as opened_file:
        stream = open_archive(ArchiveFile(opened_file.fileno(), stop))
        assert stream.read(10) == CONTENT[:10]
        stop.set()
        with pytest.raises(Conflict, match="shutting down"):
            stream.read(10)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(ArchiveError, match=r"read at byte 0: is a directory \(EISDIR\)"):
            open_archive(ArchiveFile(descriptor, threading.Event()))
    finally:
        os.close(descriptor)
