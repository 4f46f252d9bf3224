"""The state directory: what lies where, and the lock that keeps a second supervisor out."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from wherry.errors import Conflict, InvalidRequest
from wherry.kernel.libc import describe_errno


class StateDirectory:
    """``path`` is made when missing, mode 0700, with its parents; the mode of an existing directory is the user's.

    What is sensitive in it (environments, layers, logs) has a mode of its own.
    """

    def __init__(self, path: str) -> None:
        """Raises InvalidRequest naming the directory when it cannot be used."""
        self.path = Path(path).absolute()
        try:
            self.path.mkdir(0o700, parents=True, exist_ok=True)
            for directory in (self.logs, self.layers, self.rootfs, self.run, self.stage):
                directory.mkdir(0o700, exist_ok=True)
        except OSError as error:
            raise InvalidRequest(f"state directory {self.path}: {describe_errno(error.errno or 0)}") from None
        self._lock = -1

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
        try:
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise InvalidRequest(f"state directory {self.path}: lock: {describe_errno(error.errno or 0)}") from None
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
