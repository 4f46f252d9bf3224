"""ROOTFS arguments to directories; archives are unpacked once and kept by their content.

``<state>/rootfs/SHA256`` is a whole unpacked archive, because a directory gets such a name only by rename(2) when all
is in it; ``<state>/rootfs/.unpack-*`` is one being unpacked, or the leftover of a killed supervisor.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import tempfile
import threading
import time
from pathlib import Path

from wherry.errors import InvalidRequest, StartFailed
from wherry.kernel import libc
from wherry.kernel.libc import describe, describe_errno
from wherry.rootfs import trees
from wherry.rootfs.archive import ArchiveError, ArchiveFile, open_archive
from wherry.rootfs.extract import unpack
from wherry.rootfs.members import Archive

_log = logging.getLogger(__name__)

_UNFINISHED = ".unpack-"
_MOST_DIGESTS = 256
_SETTLED = 2 * 10**9  # nanoseconds; file systems stamp times in steps of up to two seconds
_READ_SIZE = 1 << 20

# Not the archive's fault.
_OUR_FAULT = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.EROFS,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EACCES,
    errno.EPERM,
}

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}

_Identity = tuple[int, int, int, int, int]


class RootfsStore:
    """All methods may be called in several threads at once, and block."""

    def __init__(self, directory: Path) -> None:
        """``directory`` is made when missing, mode 0700: set-user-ID programs and devices go there. Raises OSError."""
        directory.mkdir(0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        self._directory = directory
        self._stop = threading.Event()
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}  # by digest, held while unpacking
        self._digests: dict[_Identity, str] = {}  # of archive files seen, oldest first

    def resolve(self, rootfs: str) -> Path:
        """The directory for ``rootfs``: its real path if it is one, else that of the unpacked archive.

        The archive is a tar, plain or compressed by gzip, bzip2, xz or zstd. Raises InvalidRequest naming the path and
        what is wrong with it, StartFailed when unpacking failed for another reason (disk full), Conflict after
        ``close``; nothing is left then.
        """
        descriptor = _open(rootfs)
        try:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                return Path(os.path.realpath(rootfs))
            digest = self._digest(descriptor)
            with self._lock_of(digest):
                directory = self._directory / digest
                if not directory.is_dir():
                    self._unpack(descriptor, digest, directory)
            return directory
        except ArchiveError as error:
            raise InvalidRequest(f"rootfs {rootfs!r}: {error}") from error
        except OSError as error:
            kind = StartFailed if error.errno in _OUR_FAULT else InvalidRequest
            raise kind(f"unpack rootfs {rootfs!r}: {describe(error)}") from error
        finally:
            os.close(descriptor)

    def prune(self) -> None:
        """Remove what killed supervisors left half unpacked, before any ``resolve``. Failures are only logged."""
        for entry in os.listdir(self._directory):
            if entry.startswith(_UNFINISHED):
                self._remove(entry)

    def close(self) -> None:
        """Unpacking stops soon and leaves nothing; its callers get a Conflict."""
        self._stop.set()

    def _lock_of(self, digest: str) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(digest, threading.Lock())

    def _digest(self, descriptor: int) -> str:
        status = os.fstat(descriptor)
        identity = _identity(status)
        with self._guard:
            known = self._digests.get(identity)
        if known is not None:
            return known
        now = time.time_ns()
        file = ArchiveFile(descriptor, self._stop)
        while file.read(_READ_SIZE):
            pass
        # A file changed again within a step of the clock keeps its times (git's "racy" problem): trust settled ones.
        if identity == _identity(os.fstat(descriptor)) and now - max(status.st_mtime_ns, status.st_ctime_ns) > _SETTLED:
            self._remember(identity, file.digest())
        return file.digest()

    def _remember(self, identity: _Identity, digest: str) -> None:
        with self._guard:
            self._digests[identity] = digest
            if len(self._digests) > _MOST_DIGESTS:
                del self._digests[next(iter(self._digests))]

    def _unpack(self, descriptor: int, digest: str, directory: Path) -> None:
        unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self._directory))
        try:
            root = os.open(unfinished, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                file = ArchiveFile(descriptor, self._stop)
                unpack(Archive(open_archive(file)), root)
                if file.digest() != digest:
                    raise ArchiveError("it changed while it was read")
                # Else, after a power failure, the name could be on the disk and the files' content not.
                libc.syncfs(root)
            finally:
                os.close(root)
            unfinished.rename(directory)
        except BaseException:
            self._remove(unfinished.name)
            raise

    def _remove(self, name: str) -> None:
        try:
            parent = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                trees.remove(parent, name)
            finally:
                os.close(parent)
        except OSError as error:
            _log.warning("cannot remove %s: %s", self._directory / name, describe(error))


def _identity(status: os.stat_result) -> _Identity:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _open(rootfs: str) -> int:
    """A descriptor of a directory (O_PATH) or a regular file. Raises InvalidRequest."""
    try:
        # O_PATH first: opening a FIFO may block, and opening a device may set something going.
        found = os.open(rootfs, os.O_PATH | os.O_CLOEXEC)
        try:
            kind = stat.S_IFMT(os.fstat(found).st_mode)
            if kind == stat.S_IFDIR:
                return os.dup(found)
            if kind == stat.S_IFREG:
                return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(found)
    except OSError as error:
        raise InvalidRequest(f"rootfs {rootfs!r}: {describe_errno(error.errno or 0)}") from error
    except ValueError as error:  # a NUL in it, or what is no file name
        raise InvalidRequest(f"rootfs {rootfs!r}: {error}") from error
    raise InvalidRequest(
        f"rootfs {rootfs!r} is {_KINDS.get(kind, 'something else')}, neither a directory nor a tar archive"
    )
