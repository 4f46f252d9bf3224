"""Logs: every byte that a container writes, once and in order, with its stream and time.

    index     the records that say which bytes are whose: format, checksums
    files     how files are opened
    segments  the files of a rotated log;  rotation: how one follows another
    writer    buffer -> file, exact across SIGKILL
    log       one container's log: files, state, followers to wake;  options: what can be chosen of it
    holds     readers that are owed every byte, and what is kept for them
    pipes     what a container writes to
    buffer    the bounded buffer, and buffer_file what of it outlives a process
    pipeline  the threads that do it all: capture (the producer) and drain (the consumer)
    jobs      what these two share, and how they wait;  pace: when pipes are let fill
    view      a log as runs, forwards and backwards;  parts: how its files are opened for that
    selection tail, since, until, streams
    reader    read();  follower: follow();  linewise: lines() and time stamps

``python -m wherry.logs FILE`` prints a log without a supervisor. docs/log-format.md describes the files.
"""

from wherry.logs.buffer import BufferStats
from wherry.logs.follower import follow, opening
from wherry.logs.holds import Hold
from wherry.logs.index import STDERR, STDOUT
from wherry.logs.linewise import Line, LineSplitter, Stamper, lines, rfc3339_nano
from wherry.logs.log import Log, LogState
from wherry.logs.options import LogOptions
from wherry.logs.pipeline import Pipeline, make_buffer
from wherry.logs.pipes import duplicate_pipe, make_pipe
from wherry.logs.reader import Chunk, FileRange, read, read_pieces

__all__ = [
    "STDERR",
    "STDOUT",
    "BufferStats",
    "Chunk",
    "FileRange",
    "Hold",
    "Line",
    "LineSplitter",
    "Log",
    "LogOptions",
    "LogState",
    "Pipeline",
    "Stamper",
    "duplicate_pipe",
    "follow",
    "lines",
    "make_buffer",
    "make_pipe",
    "opening",
    "read",
    "read_pieces",
    "rfc3339_nano",
]
