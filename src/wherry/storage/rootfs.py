"""ROOTFS arguments to directories; archives are unpacked once and kept by their content.

``<state>/rootfs/SHA256`` is a whole unpacked archive, because a directory gets such a name only by rename(2) when all
is in it, and loses it by rename(2) before anything is removed from it; ``.unpack-*`` is one being unpacked,
``.remove-*`` one being removed, or the leftover of a killed supervisor.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from wherry.errors import Conflict, InvalidRequest, StartFailed
from wherry.kernel import libc
from wherry.kernel.libc import describe, describe_errno
from wherry.storage import trees
from wherry.storage.catalogue import Catalogue, Unpacked
from wherry.storage.tar.archive import ArchiveError, ArchiveFile, open_archive
from wherry.storage.tar.budget import ArchiveBudget, ArchiveLimits, NoSpaceError, Space, space
from wherry.storage.tar.extract import unpack
from wherry.storage.tar.members import Archive

_log = logging.getLogger(__name__)

_UNFINISHED = ".unpack-"
_REMOVED = ".remove-"
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
    """All methods may be called in several threads at once, and block.

    Who uses an unpacked archive holds it, by ``take`` or ``hold``, and lets go of it by ``drop``; what nobody holds may
    be removed at any time.
    """

    def __init__(self, directory: Path, limits: ArchiveLimits | None = None) -> None:
        """``directory`` is made when missing, mode 0700: set-user-ID programs and devices go there. Raises OSError."""
        directory.mkdir(0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        self._directory = directory
        self.limits = limits or ArchiveLimits()
        self.keeps_all = False
        """Whether somebody may use an archive without holding it, so that none is removed."""
        self._stop = threading.Event()
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}  # by digest, held while unpacking
        self._digests: dict[_Identity, str] = {}  # of archive files seen, oldest first
        self._leftovers = [name for name in os.listdir(directory) if name.startswith((_UNFINISHED, _REMOVED))]
        self._catalogue = Catalogue(directory)

    def resolve(self, rootfs: str) -> Path:
        """The directory for ``rootfs``: its real path if it is one, else that of the unpacked archive, as ``take``
        gives it, but not held.
        """
        if os.path.isdir(rootfs):
            return Path(os.path.realpath(rootfs))
        digest = self.take(rootfs)
        self.drop(digest)
        return self.directory_of(digest)

    def directory_of(self, digest: str) -> Path:
        return self._directory / digest

    def find(self, digest: str) -> Path | None:
        """The directory of an archive, if it is there."""
        directory = self.directory_of(digest)
        return directory if digest and directory.is_dir() else None

    def take(self, rootfs: str) -> str:
        """The digest of an archive that is unpacked then, and held.

        The archive is a tar, plain or compressed by gzip, bzip2, xz or zstd. Raises InvalidRequest naming the path and
        what is wrong with it, or which limit it exceeds; StartFailed when unpacking failed for another reason (disk
        full), Conflict after ``close``; nothing is left then.
        """
        descriptor = _open(rootfs)
        try:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise InvalidRequest(f"rootfs {rootfs!r} is a directory, not an archive")
            digest = self._digest(descriptor)
            with self._lock_of(digest):
                if not self._catalogue.hold(digest):
                    self._unpack(descriptor, digest, rootfs)
            return digest
        except ArchiveError as error:
            raise InvalidRequest(f"rootfs {rootfs!r}: {error}") from error
        except NoSpaceError as error:
            raise StartFailed(f"unpack rootfs {rootfs!r}: {error}") from error
        except OSError as error:
            kind = StartFailed if error.errno in _OUR_FAULT else InvalidRequest
            raise kind(f"unpack rootfs {rootfs!r}: {describe(error)}") from error
        finally:
            os.close(descriptor)

    def hold(self, digest: str) -> bool:
        """One more uses an archive; False when it is not there."""
        return self._catalogue.hold(digest)

    def drop(self, digest: str) -> None:
        """One less uses it."""
        self._catalogue.drop(digest)

    def archives(self) -> list[Unpacked]:
        """What is unpacked, the least recently used first; without measuring what has not been measured yet."""
        return self._catalogue.all()

    def measure(self) -> None:
        """Measure what earlier versions unpacked, who noted no sizes. Raises Conflict after ``close``."""
        for entry in self._catalogue.all():
            if entry.usage is None:
                with contextlib.suppress(OSError), self._opened() as parent:
                    self._catalogue.measured(entry.digest, trees.usage(parent, entry.digest, self._stop))

    def prune(self, before_ns: int | None = None) -> list[Unpacked]:
        """Remove the archives that nobody holds, with ``before_ns`` those that were used last before it.

        Returns those that are gone. A failure is logged. Raises Conflict after ``close``; the rest of a tree is removed
        by the next store then, as after a kill.
        """
        self.measure()
        idle = [entry for entry in self._catalogue.all() if before_ns is None or entry.used_ns < before_ns]
        return [removed for entry in idle if (removed := self._remove_archive(entry.digest)) is not None]

    def trim(self) -> None:
        """Remove what nobody holds, the least recently used first, until the rest is within the cache's limit.

        Raises Conflict after ``close``.
        """
        self.measure()
        idle = [entry for entry in self._catalogue.all() if not entry.users]
        excess = sum(entry.usage.bytes for entry in idle if entry.usage) - self.limits.cache
        for entry in idle:
            if excess <= 0:
                return
            if self._remove_archive(entry.digest) is not None:
                excess -= entry.usage.bytes if entry.usage else 0

    def space(self) -> Space:
        """Of the file system that the store is on."""
        return space(os.statvfs(self._directory), self.limits)

    def remove_leftovers(self) -> None:
        """Remove what killed supervisors left half unpacked or half removed. Failures are only logged."""
        for name in self._leftovers:
            self._remove(name)

    def close(self) -> None:
        """Unpacking and removing stop soon; their callers get a Conflict. What is half done never has a name."""
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

    def _unpack(self, descriptor: int, digest: str, source: str) -> None:
        unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self._directory))
        try:
            with _opened(unfinished) as root:
                file = ArchiveFile(descriptor, self._stop)
                budget = ArchiveBudget(root, self.limits, self._make_room)
                budget.check_space()
                unpack(Archive(budget.metered(open_archive(file))), root, budget)
                budget.check_space()
                if file.digest() != digest:
                    raise ArchiveError("it changed while it was read")
                # Else, after a power failure, the name could be on the disk and the files' content not.
                libc.syncfs(root)
            with self._opened() as parent:
                usage = trees.usage(parent, unfinished.name, self._stop)
            directory = self.directory_of(digest)
            self._catalogue.add(digest, source, usage, lambda: os.rename(unfinished, directory))
        except BaseException:
            self._remove(unfinished.name)
            raise

    def _make_room(self) -> bool:
        """Remove the least recently used archive that nobody holds; False when there is none."""
        return any(self._remove_archive(entry.digest) is not None for entry in self._catalogue.all())

    def _remove_archive(self, digest: str) -> Unpacked | None:
        """None when it is in use, or stays for another reason, which is logged then."""
        if self._stop.is_set():
            raise Conflict("the supervisor is shutting down")
        if self.keeps_all:
            return None
        name = f"{_REMOVED}{secrets.token_hex(8)}"
        try:
            # From here on it is no archive for anybody, whatever becomes of its removal.
            removed = self._catalogue.take_out(
                digest, lambda: os.rename(self.directory_of(digest), self._directory / name)
            )
        except OSError as error:
            _log.warning("cannot remove %s: %s", self.directory_of(digest), describe(error))
            return None
        return removed if removed is not None and self._remove(name, self._stop) else None

    def _remove(self, name: str, stop: threading.Event | None = None) -> bool:
        try:
            with self._opened() as parent:
                trees.remove(parent, name, stop)
        except OSError as error:
            _log.warning("cannot remove %s: %s", self._directory / name, describe(error))
            return False
        return True

    def _opened(self) -> contextlib.AbstractContextManager[int]:
        return _opened(self._directory)


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


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
