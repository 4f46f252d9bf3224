"""A file system that does not answer: a FUSE server of a test's own, in a thread.

Whoever looks up /hang in it sits in the kernel in state D, and SIGKILL does not end it: the request has been read by
the server, and the kernel waits for its answer (fs/fuse/dev.c, request_wait_answer). When the server goes, all such
requests end. That is a real hung file system, as a network file system whose server is away.
"""

from __future__ import annotations

import os
import select
import struct
import threading
from pathlib import Path

from wherry.kernel import mounts

_HEADER = struct.Struct("=IIQQIIIHH")  # struct fuse_in_header: len opcode unique nodeid uid gid pid ...
_LOOKUP, _GETATTR, _INIT, _FORGET, _BATCH_FORGET, _INTERRUPT = 1, 3, 26, 2, 42, 36
_ENOENT, _ENOSYS = 2, 38


class HangingFileSystem:
    """Mounted at ``path`` until ``close``. include/uapi/linux/fuse.h, version 7.31."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_hanging = threading.Event()
        """Somebody waits for what will not be answered."""
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        path.mkdir()
        mounts.mount("hanging", str(path), "fuse", 0, f"fd={self._device},rootmode=40000,user_id=0,group_id=0")
        self._stop = os.eventfd(0)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        poll = select.poll()
        for descriptor in (self._device, self._stop):
            poll.register(descriptor, select.POLLIN)
        while self._stop not in {descriptor for descriptor, _ in poll.poll()}:
            request = os.read(self._device, 1 << 17)
            _, opcode, unique, *_ = _HEADER.unpack_from(request)
            if opcode == _LOOKUP and request[40:] == b"hang\0":
                self.is_hanging.set()
            elif opcode not in (_FORGET, _BATCH_FORGET, _INTERRUPT):
                self._answer(opcode, unique)

    def _answer(self, opcode: int, unique: int) -> None:
        body, error = b"", 0
        if opcode == _INIT:
            body = struct.pack("=IIIIHHIIHHI28x", 7, 31, 4096, 0, 12, 9, 4096, 1, 1, 0, 0)
        elif opcode == _GETATTR:  # struct fuse_attr_out: a directory of root's
            attributes = struct.pack("=QQQQQQIIIIIIIIII", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)
            body = struct.pack("=QII", 60, 0, 0) + attributes
        else:
            error = -_ENOENT if opcode == _LOOKUP else -_ENOSYS
        os.write(self._device, struct.pack("=IiQ", 16 + len(body), error, unique) + body)

    def let_go(self) -> None:
        """Of all who wait: without its server the file system answers ENOTCONN to everything."""
        if self._device >= 0:
            os.eventfd_write(self._stop, 1)
            self._thread.join(20)
            os.close(self._device)
            self._device = -1

    def close(self) -> None:
        self.let_go()
        os.close(self._stop)
        mounts.detach(str(self.path))
