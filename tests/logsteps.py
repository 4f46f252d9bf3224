"""One container's log pipeline without threads: the real objects, driven step by step, killed and taken over.

A step is what happens between two moments at which another thread could come in between, or a SIGKILL: a critical
section, or the system call outside of one. The mutex is real, and never contended.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import re
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

from wherry.logs import STDERR, STDOUT, BufferStats, Log, LogOptions, Pipeline
from wherry.logs.buffer import Gap, Piece
from wherry.logs.buffer_file import PAGE, BufferFile
from wherry.logs.capture import _Reserved
from wherry.logs.index import GAP
from wherry.logs.jobs import Job
from wherry.logs.pipeline import _State
from wherry.logs.view import BLOCK, Runs

ID = "ab" * 32
STREAMS = (STDOUT, STDERR)
BUDGET = 8 * PAGE
PIPE_SIZE = 4 * PAGE
MARKER = re.compile(rb"\n?\[wherry: (\d+) bytes lost here\]\n")
CHANGES = ("splice", "sendfile", "pwrite", "ftruncate", "lseek", "open", "replace", "rename", "unlink")
"""The calls of the os module, pathlib's too, by which the pipeline changes what outlives it."""


class Idle(Exception):
    """The consumer would go to sleep."""


class _NeverWaits(threading.Condition):
    def wait(self, timeout: float | None = None) -> bool:
        if timeout is None or timeout > 0:
            raise Idle
        return False  # the time to try again has come

    def notify(self, n: int = 1) -> None:
        pass


@functools.cache
def text_of(stream: int) -> bytes:
    """What a container writes to a stream, if it writes so much: short, long and very long lines, all different."""
    lengths = [7000 if number % 61 == 60 else number * number % 131 for number in range(8000)]
    return b"".join(b"%d.%d%s\n" % (stream, n, b"." * length) for n, length in enumerate(lengths))


class Disk:
    """The calls of CHANGES pass through here. ``room`` is how many more bytes the log's files get, None for any."""

    def __init__(self, folder: Path, on_splice: Callable[[int, int], None]) -> None:
        self.room: int | None = None
        self.before: Callable[[str], None] = lambda _name: None
        self.after: Callable[[str], None] = lambda _name: None
        self.share = 1.0  # of what a call is to move
        self._device = folder.stat().st_dev
        self._on_splice = on_splice
        self._real = {name: getattr(os, name) for name in CHANGES}

    @contextmanager
    def mounted(self) -> Iterator[None]:
        with ExitStack() as patches:
            for name in CHANGES:
                call = getattr(self, f"_{name}", functools.partial(self._call, name))
                patches.enter_context(mock.patch.object(os, name, call))
            yield

    def _call(self, name: str, *args: Any, **options: Any) -> Any:
        self.before(name)
        result = self._real[name](*args, **options)
        self.after(name)
        return result

    def _open(self, path: Any, flags: int, *args: Any, **options: Any) -> Any:
        if not flags & os.O_CREAT:
            return self._real["open"](path, flags, *args, **options)
        if self.room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return self._call("open", path, flags, *args, **options)

    def _lseek(self, fd: int, offset: int, how: int) -> Any:
        if how == os.SEEK_SET:
            return self._call("lseek", fd, offset, how)
        return self._real["lseek"](fd, offset, how)  # that of a log goes where its end is, and no successor cares

    def _splice(self, source: int, target: int, limit: int, **options: Any) -> int:
        self.before("splice")
        moved: int = self._real["splice"](source, target, max(1, int(limit * self.share)), **options)
        self._on_splice(source, moved)
        self.after("splice")
        return moved

    def _sendfile(self, target: int, source: int, offset: int, limit: int) -> int:
        self.before("sendfile")
        limit = self._taken(max(1, int(limit * self.share)))
        moved: int = self._real["sendfile"](target, source, offset, limit)
        self.after("sendfile")
        return moved

    def _pwrite(self, target: int, data: bytes, offset: int) -> int:
        is_log = os.fstat(target).st_dev == self._device
        name = "pwrite to the log" if is_log else "pwrite"
        self.before(name)
        if is_log:
            growth = max(0, offset + len(data) - os.fstat(target).st_size)
            data = data[: int((len(data) - growth + self._taken(growth)) * self.share)]
        written: int = self._real["pwrite"](target, data, offset)
        self.after(name)
        return written

    def _taken(self, wanted: int) -> int:
        if self.room is None or not wanted:
            return wanted
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = min(wanted, self.room)
        self.room -= taken
        return taken


class Container:
    """A container, its shim, which keeps pipes and buffer, and the supervisors that come one after the other."""

    def __init__(self, folder: Path, options: LogOptions) -> None:
        self.path = folder / "alpha.log"
        self.options = options
        self.written = dict.fromkeys(STREAMS, 0)
        self.spliced = dict.fromkeys(STREAMS, 0)
        self._bytes, self._streams = bytearray(), bytearray()  # all that was spliced, in that order
        self._others = _descriptors()
        self._kept: dict[int, int] = {}
        self._writers: dict[int, int] = {}
        self._stream_of: dict[int, int] = {}
        for stream in STREAMS:
            reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
            self._kept[stream], self._writers[stream] = reader, writer
            self._stream_of[os.fstat(reader).st_ino] = stream
        with mock.patch("wherry.logs.buffer_file.BUFFER_MIN", BUDGET):
            self._buffer = BufferFile.create(BUDGET).fd
        self.disk = Disk(folder, self._note_splice)
        self.finished_by_request = False
        Log(self.path, ID, options).create()

    def _note_splice(self, source: int, moved: int) -> None:
        stream = self._stream_of[os.fstat(source).st_ino]
        start = self.spliced[stream]
        self._bytes += text_of(stream)[start : start + moved]
        self._streams += bytes([stream]) * moved
        self.spliced[stream] += moved

    # The container's side.

    def write(self, stream: int, size: int) -> None:
        """As much of it as the pipe takes."""
        start = self.written[stream]
        with suppress(BlockingIOError):
            self.written[stream] += os.write(self._writers[stream], text_of(stream)[start : start + size])

    @property
    def has_exited(self) -> bool:
        return not self._writers

    def exit(self) -> None:
        for fd in self._writers.values():
            os.close(fd)
        self._writers.clear()

    # The supervisors'.

    def take_over(self) -> Supervisor:
        return Supervisor(self)

    def descriptors(self) -> tuple[int, int, int]:
        out, err, buffer = (os.dup(fd) for fd in (*self._kept.values(), self._buffer))
        return out, err, buffer

    def bury(self) -> None:
        """What the kernel does with the descriptors of a process that was killed."""
        for fd in _descriptors() - self._others - {*self._kept.values(), *self._writers.values(), self._buffer}:
            os.close(fd)

    def close(self) -> None:
        self.exit()
        for fd in (*self._kept.values(), self._buffer):
            os.close(fd)

    # What must be true.

    def check(self, *, is_blocking: bool) -> int:
        """Each byte of the log is the right one of the right stream; returns what log and markers account for."""
        view = Log(self.path, ID, self.options).view()
        try:
            position, size = view.start, view.size()  # no markers before that: only logs without are pruned
            runs = Runs(view, 0)
            while (run := runs.take(size)) is not None:
                pieces = range(run.start, run.end, BLOCK)
                data = b"".join(view.read(min(BLOCK, run.end - start), start) for start in pieces)
                assert len(data) == run.end - run.start, "a hole"
                if run.stream == GAP:
                    marker = MARKER.fullmatch(data)
                    assert marker, data
                    assert not is_blocking, "a gap in blocking mode"
                    position += int(marker[1])
                    continue
                end = position + len(data)
                assert data == self._bytes[position:end], f"wrong bytes at position {position}"
                assert self._streams[position:end] == bytes([run.stream]) * len(data), "wrong stream"
                position = end
            assert position <= len(self._bytes), "more than was taken out of the pipes"
            return position
        finally:
            view.close()

    def check_complete(self, *, is_blocking: bool) -> None:
        assert self.check(is_blocking=is_blocking) == len(self._bytes)
        if not self.finished_by_request:
            assert self.spliced == self.written


class Supervisor:
    """A pipeline whose threads are not started: their steps are called instead. Dead after kill() or leave()."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self.done = 0
        self.log = Log(container.path, ID, container.options)
        self.pipeline = Pipeline()
        self.pipeline._state = _State.RUNNING
        self.exchange = self.pipeline._exchange
        self.exchange.not_empty = _NeverWaits(self.exchange.mutex)
        self.producer = self.pipeline._producer
        self.consumer = self.pipeline._consumer
        self.job: Job | None = None
        self.events: list[tuple[int, int]] = []
        self.reserved: _Reserved | None = None
        self.moved: int | None = None
        self.turn: Job | None = None
        self.claim: Piece | Gap | None = None
        self.written: int | None = None

    def add(self) -> None:
        out, err, buffer = self._container.descriptors()
        self.pipeline.add(self.log, out, err, self._count, buffer)
        self.job = self.exchange.jobs[self.log]

    def _count(self) -> None:
        self.done += 1
        assert self.log.finished

    def stats(self) -> BufferStats:
        return self.log.measure()

    def kill(self) -> None:
        self.producer._epoll.close()
        self._container.bury()

    # The producer's steps. Each returns whether there was something to do.

    def poll(self) -> bool:
        if not self.events and self.reserved is None:
            self.events = self.producer._epoll.poll(0)
        return bool(self.events)

    def reserve(self) -> bool:
        """Look at the next event: a request, an end, a full buffer, or bytes for which room is reserved."""
        if not self.events or self.reserved is not None:
            return False
        fd, events = self.events.pop(0)
        if fd == self.exchange.not_full:
            self.producer._serve()
        else:
            self.reserved = self.producer._reserve(fd, events)
        return True

    def splice(self) -> bool:
        if self.reserved is None or self.moved is not None:
            return False
        self.moved = self.producer._splice(self.reserved)
        return True

    def commit(self) -> bool:
        if self.reserved is None or self.moved is None:
            return False
        (reserved, self.reserved), (moved, self.moved) = (self.reserved, None), (self.moved, None)
        self.producer._commit(reserved, moved)
        return True

    # The consumer's.

    def next(self) -> bool:
        if self.turn is None:
            with suppress(Idle):
                self.turn = self.consumer._next()
        return self.turn is not None

    def claim_piece(self) -> bool:
        if self.turn is None or self.claim is not None:
            return False
        self.claim = self.consumer._claim(self.turn)
        if self.claim is None:
            self.turn = None
        return True

    def write(self) -> bool:
        if self.turn is None or self.claim is None or self.written is not None:
            return False
        self.written = self.consumer._write(self.turn, self.claim)
        return True

    def release(self) -> bool:
        if self.turn is None or self.written is None:
            return False
        self.consumer._release(self.turn, self.written)
        self.turn = self.claim = self.written = None
        return True

    def produce(self) -> bool:
        """A whole turn of the producer, or what remains of one."""
        return _all_of(self.poll, self.reserve, self.splice, self.commit)

    def consume(self) -> bool:
        return _all_of(self.next, self.claim_piece, self.write, self.release)

    def run_dry(self) -> None:
        """Both threads, until they would sleep; with a full disk that is when the log has failed once."""
        rounds = 0
        is_full = self._container.disk.room is not None
        while (is_producing := self.produce()) | self.consume():
            rounds += 1
            assert rounds < 5000, "the threads are busy with nothing"
            if is_full and self.consumer._failing and not is_producing:
                return

    def leave(self) -> None:
        """An orderly shutdown: Pipeline.close(), with the two threads taking turns."""
        self.pipeline._state = _State.CLOSED
        self.exchange.is_closing = True
        while self.reserved is not None:
            self.splice()
            self.commit()
        self.events.clear()
        self.producer._serve()
        self.producer._begin_leaving()
        rounds = 0
        while self.producer._has_work():
            rounds += 1
            assert rounds < 5000, "the shutdown does not come to an end"
            self.produce()
            if self.producer._has_work():
                self.consume()
        self.events.clear()
        self.producer._end_leaving()
        self.exchange.producer_has_ended = True
        while self.turn is not None:
            self.consume()
        self.consumer.run()
        self.producer.close()
        self.exchange.close()


def _all_of(*steps: Callable[[], bool]) -> bool:
    has_done = False
    for step in steps:
        has_done |= step()
    return has_done


def _descriptors() -> set[int]:
    listed = {int(name) for name in os.listdir("/proc/self/fd")}
    return {fd for fd in listed if Path(f"/proc/self/fd/{fd}").is_symlink()}  # without that of the listing


def is_ready(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
