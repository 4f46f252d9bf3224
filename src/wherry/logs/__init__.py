"""Logs: every byte that a container writes, once and in order, with its stream and time.

    index     the records that say which bytes are whose: format, checksums
    files     how files are opened
    writer    pipe -> file, exact across SIGKILL
    log       one container's log: files, state, followers to wake
    pipes     what a container writes to
    capture   the thread that serves all pipes;  pace: when it lets them fill
    view      a log as runs, forwards and backwards
    selection tail, since, until, streams
    reader    read();  follower: follow();  linewise: lines() and time stamps

``python -m wherry.logs FILE`` prints a log without a supervisor. docs/log-format.md describes the files.
"""

from wherry.logs.capture import Capture
from wherry.logs.follower import follow
from wherry.logs.index import STDERR, STDOUT
from wherry.logs.linewise import Line, LineSplitter, Stamper, lines, rfc3339_nano
from wherry.logs.log import Log
from wherry.logs.pipes import make_pipe
from wherry.logs.reader import Chunk, read

__all__ = [
    "STDERR",
    "STDOUT",
    "Capture",
    "Chunk",
    "Line",
    "LineSplitter",
    "Log",
    "Stamper",
    "follow",
    "lines",
    "make_pipe",
    "read",
    "rfc3339_nano",
]
