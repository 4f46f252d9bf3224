"""The state directory: what lies where, and the lock that keeps a second supervisor out."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from wherry.errors import Conflict, InvalidRequest
from wherry.kernel import trust
from wherry.kernel.libc import describe_errno


class StateDirectory:
    """``path`` is made when missing, mode 0700, with its parents.

    One that was there must be root's or ours, with every directory on the way to it and every part in it, and writable
    by nobody else: who could prepare one, or change one later, could have root write to and delete what he likes. After
    this check the parts can be used by their names.
    """

    def __init__(self, path: str) -> None:
        """Raises InvalidRequest naming the directory, or the part of it, that cannot be used, and what is wrong."""
        self.path = Path(path).absolute()
        self._lock = -1
        with self._explained():
            directory = trust.open_directory(str(self.path), 0o700)
            try:
                self._open_parts(directory)
            finally:
                os.close(directory)

    def _open_parts(self, directory: int) -> None:
        for path in (self.logs, self.layers, self.rootfs, self.run):
            part = trust.open_part(directory, path.name, str(path))
            try:
                if path in (self.layers, self.rootfs):
                    # Set-user-ID programs of root file systems are in there: nobody else may get that far.
                    os.chmod(f"/proc/self/fd/{part}", 0o700)
                elif path == self.run:
                    os.close(trust.open_part(part, self.stage.name, str(self.stage)))
            finally:
                os.close(part)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except trust.DistrustedError as error:
            raise InvalidRequest(f"state directory {self.path}: {error}") from None
        except OSError as error:
            where = f" {error.filename}:" if error.filename else ""
            raise InvalidRequest(f"state directory {self.path}:{where} {describe_errno(error.errno or 0)}") from None

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def layers(self) -> Path:
        return self.path / "containers"

    @property
    def rootfs(self) -> Path:
        return self.path / "rootfs"

    @property
    def run(self) -> Path:
        return self.path / "run"

    @property
    def stage(self) -> Path:
        return self.path / "run" / "stage"

    @property
    def records(self) -> Path:
        return self.path / "records.sqlite"

    @property
    def events(self) -> Path:
        return self.path / "events"

    def identity(self) -> str:
        """Differs between a state directory and a copy of it."""
        status = self.path.stat()
        return f"{status.st_dev}:{status.st_ino}"

    def log_of(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def lock(self) -> None:
        """Become the directory's only supervisor until the process ends. Raises Conflict when there is one."""
        if self._lock >= 0:
            return
        with self._explained():
            descriptor = trust.open_file(str(self.path / "lock"), os.O_RDWR | os.O_CREAT)
        try:
            # flock(2) belongs to the open file: the kernel lets go of it however the process ends.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "?"
            os.close(descriptor)
            raise Conflict(f"state directory {self.path} is in use by another supervisor (pid {owner})") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        self._lock = descriptor

    def take_lock(self, descriptor: int) -> None:
        """Have the lock by this descriptor of it, from ``give_lock``."""
        self._lock = descriptor

    def give_lock(self) -> int:
        """The lock's descriptor, for whoever takes our place: ``unlock`` then does nothing."""
        descriptor, self._lock = self._lock, -1
        return descriptor

    def unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
