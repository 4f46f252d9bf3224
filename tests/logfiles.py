"""Logs made by hand, as their pipeline would make them, but one run at a time."""

from __future__ import annotations

import os
import time

from wherry.logs import Log, make_pipe
from wherry.logs.buffer import Buffer, Piece
from wherry.logs.buffer_file import BufferFile


def new_buffer(budget: int) -> Buffer:
    return Buffer(BufferFile.create(budget), drops=False)


def append(log: Log, stream: int, data: bytes, moment: tuple[int, int] | None = None) -> None:
    """Write ``data``, at most 64 KiB, to an open log: as a run of its own, or as more of that of ``moment``."""
    buffer = new_buffer(1024 * 1024)
    read_end, write_end = make_pipe()
    try:
        os.write(write_end, data)
        assert buffer.splice(read_end, buffer.reserve(stream)) == len(data)
        buffer.commit(len(data))
        while (piece := buffer.claim()) is not None:
            assert isinstance(piece, Piece)
            wall_ns, monotonic_ns = moment or (time.time_ns(), time.monotonic_ns())
            buffer.release(log.append(buffer, piece._replace(wall_ns=wall_ns, monotonic_ns=monotonic_ns)))
    finally:
        os.close(read_end)
        os.close(write_end)
        buffer.close()
