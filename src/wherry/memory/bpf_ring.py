"""The reader's end of a BPF ring buffer (Documentation/bpf/ringbuf.rst), by mmap."""

from __future__ import annotations

import mmap
import struct

_BUSY, _DISCARDED = 1 << 31, 1 << 30  # BPF_RINGBUF_BUSY_BIT, BPF_RINGBUF_DISCARD_BIT
_HEADER = 8


class Ring:
    """``descriptor`` is the map's, which stays the caller's and polls readable while there is something; ``size`` is
    its max_entries.

    The position is kept in the map itself: whoever reads next, in this process or another, goes on after what the last
    call of ``read`` returned.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        page = mmap.PAGESIZE
        self._size = size
        self._consumer_page = mmap.mmap(descriptor, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        # The data is mapped twice in a row, so that a record that goes round the end is still one piece.
        length = page + 2 * size
        self._producer_pages = mmap.mmap(descriptor, length, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        # As whole words: the kernel must not see half of a position.
        self._consumer = memoryview(self._consumer_page).cast("Q")
        self._producer = memoryview(self._producer_pages).cast("Q")

    def read(self) -> list[bytes]:
        """All records that are complete, oldest first."""
        records = []
        position = self._consumer[0]
        while position < self._producer[0]:
            at = mmap.PAGESIZE + (position & (self._size - 1))
            (header,) = struct.unpack_from("=I", self._producer_pages, at)
            if header & _BUSY:
                break
            length = header & ~(_BUSY | _DISCARDED)
            if not header & _DISCARDED:
                records.append(self._producer_pages[at + _HEADER : at + _HEADER + length])
            position += (length + _HEADER + 7) & ~7
        self._consumer[0] = position
        return records

    def close(self) -> None:
        for view, pages in ((self._consumer, self._consumer_page), (self._producer, self._producer_pages)):
            view.release()
            pages.close()
