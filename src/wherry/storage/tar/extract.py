"""Members of an archive to files below a directory, and nowhere else.

The directory that a member goes into is opened by one openat2(2) with RESOLVE_IN_ROOT: a symbolic link on the way leads
to where it would lead a process inside, never out. In it the last name is first removed, then made anew with a call
that follows no link (O_EXCL, mkdirat, symlinkat, linkat, mknodat), and owner, mode and times are set through the
descriptor of what was made. So a hostile archive can damage only what it brought itself.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator

from wherry.kernel import paths
from wherry.storage.tar.archive import ArchiveError
from wherry.storage.tar.budget import ArchiveBudget
from wherry.storage.tar.members import Archive, Member, MemberKind

_CONFINED = paths.RESOLVE_IN_ROOT | paths.RESOLVE_NO_MAGICLINKS | paths.RESOLVE_NO_XDEV
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_PATHS = 64 << 20
_PATH_OVERHEAD = 200
_DEVICE = {MemberKind.CHARACTER: stat.S_IFCHR, MemberKind.BLOCK: stat.S_IFBLK}

Data = Iterable[tuple[int, memoryview]]


def unpack(archive: Archive, root: int, budget: ArchiveBudget) -> None:
    """Make the members of ``archive`` below the empty directory that ``root`` is open on, as far as ``budget`` allows.

    Owners (by number), modes, times, devices, ``user.*`` attributes and file capabilities are kept. Other extended
    attributes are left out: they are labels of the machine that made the archive, or orders to overlayfs
    (``trusted.overlay.*``). Raises ArchiveError, and OSError with the member's name as its ``filename``.
    """
    os.fchmod(root, 0o755)  # for an archive that does not mention its root
    tree = _Tree(root, budget)
    count = 0
    for member in archive:
        count += 1
        try:
            tree.put(member, archive.data(member))
        except OSError as error:
            raise OSError(error.errno, error.strerror, quoted(member.name)) from error
    if count == 0:
        raise ArchiveError("the archive is empty")
    tree.set_directory_times()


def quoted(name: bytes) -> str:
    """A name from an archive for a message: one line, bounded, without control characters."""
    shown = repr(name.decode(errors="surrogateescape"))
    return shown if len(shown) <= 160 else f"{shown[:100]}...{shown[-50:]}"


class _Tree:
    def __init__(self, root: int, budget: ArchiveBudget) -> None:
        self._root = root
        self._budget = budget
        self._directory_times: dict[int, tuple[bytes, int]] = {}  # by inode number: path and time
        self._paths = 0  # bytes of memory that takes, about

    def put(self, member: Member, data: Data) -> None:
        names = _components(member.name)
        if not names:
            self._put_root(member)
            return
        self._pay(len(names[-1]) + sum(map(len, member.xattrs.values())) + len(member.link), member.kind)
        parent = self._open_parent(names)
        try:
            self._put_in(parent, names, member, data)
        finally:
            os.close(parent)

    def set_directory_times(self) -> None:
        """Last of all, because each file made in a directory changes them."""
        for inode, (path, mtime) in self._directory_times.items():
            try:
                directory = self._open(path, _DIRECTORY)
            except OSError:  # replaced since
                continue
            try:
                if os.fstat(directory).st_ino == inode:
                    os.utime(directory, ns=(mtime, mtime))
            finally:
                os.close(directory)

    def _put_root(self, member: Member) -> None:
        if member.kind is not MemberKind.DIRECTORY:
            raise ArchiveError(f"member {quoted(member.name)} makes the root a {member.kind.value}")
        self._set_up_directory(self._root, b".", member)

    def _put_in(self, parent: int, names: list[bytes], member: Member, data: Data) -> None:
        name = names[-1]
        match member.kind:
            case MemberKind.DIRECTORY:
                self._put_directory(parent, names, member)
            case MemberKind.FILE:
                _make_room(parent, name, member)
                _put_file(parent, name, member, self._paid(data))
            case MemberKind.HARD_LINK:
                self._put_hard_link(parent, name, member)
            case _:
                _make_room(parent, name, member)
                _put_node(parent, name, member)

    def _pay(self, size: int, kind: MemberKind) -> None:
        self._budget.entry(size)
        if kind is MemberKind.DIRECTORY:
            self._budget.data(0, 1)

    def _paid(self, data: Data) -> Data:
        for offset, piece in data:
            self._budget.data(offset, len(piece))
            yield offset, piece

    def _put_directory(self, parent: int, names: list[bytes], member: Member) -> None:
        try:
            os.mkdir(names[-1], 0o700, dir_fd=parent)
        except FileExistsError:
            # A link to a directory is replaced as well: following it would give its target this member's attributes.
            if not stat.S_ISDIR(os.stat(names[-1], dir_fd=parent, follow_symlinks=False).st_mode):
                os.unlink(names[-1], dir_fd=parent)
                os.mkdir(names[-1], 0o700, dir_fd=parent)
        directory = os.open(names[-1], _DIRECTORY, dir_fd=parent)
        try:
            self._set_up_directory(directory, b"/".join(names), member)
        finally:
            os.close(directory)

    def _set_up_directory(self, directory: int, path: bytes, member: Member) -> None:
        _set_attributes(directory, member)
        inode = os.fstat(directory).st_ino
        if inode not in self._directory_times:
            self._paths += len(path) + _PATH_OVERHEAD
            if self._paths > _MOST_PATHS:
                raise ArchiveError("the names of its directories take too much memory")
        self._directory_times[inode] = (path, member.mtime)

    def _put_hard_link(self, parent: int, name: bytes, member: Member) -> None:
        target = _components(member.link)
        source = self._open_source(target, member)
        try:
            found = _status(source, target[-1])
            if found is None or stat.S_ISDIR(found.st_mode):
                raise _no_link_target(member)
            there = _status(parent, name)
            if there is not None and (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino):
                return  # making room for a link to itself would lose the file
            _make_room(parent, name, member)
            os.link(target[-1], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source)

    def _open_source(self, target: list[bytes], member: Member) -> int:
        if not target:
            raise _no_link_target(member)
        try:
            return self._open(b"/".join(target[:-1]) or b".", os.O_PATH | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            raise _no_link_target(member) from None

    def _open_parent(self, names: list[bytes]) -> int:
        """The directory for ``names[-1]``. What is missing on the way is made, owned by root, mode 0755 (as tar)."""
        try:
            return self._open(b"/".join(names[:-1]) or b".", os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            pass
        directory = self._open(b".", os.O_PATH | os.O_DIRECTORY)
        for depth in range(1, len(names)):
            try:
                inner = self._enter(directory, names[:depth])
            finally:
                os.close(directory)
            directory = inner
        return directory

    def _enter(self, parent: int, names: list[bytes]) -> int:
        """The directory at ``names``, made if missing; ``parent`` is the one it is in."""
        try:
            return os.open(names[-1], _DIRECTORY, dir_fd=parent)
        except FileNotFoundError:
            self._pay(len(names[-1]), MemberKind.DIRECTORY)
            return _make_directory(parent, names[-1])
        except NotADirectoryError:  # a link: only from the root does it lead to the right place
            pass
        try:
            return self._open(b"/".join(names), os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            message = f"a member lies below {quoted(b'/'.join(names))}, a symbolic link to nothing"
            raise ArchiveError(message) from None

    def _open(self, path: bytes, flags: int) -> int:
        return paths.openat2(self._root, path, flags, 0, _CONFINED)


def _components(name: bytes) -> list[bytes]:
    """Without a leading ``/`` or ``./``, as tar does it. Raises ArchiveError for ``..``."""
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise ArchiveError(f'member name or link {quoted(name)} has ".." in it')
    return parts


def _make_directory(parent: int, name: bytes) -> int:
    os.mkdir(name, 0o700, dir_fd=parent)
    directory = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        os.fchown(directory, 0, 0)
        os.fchmod(directory, 0o755)
    except BaseException:
        os.close(directory)
        raise
    return directory


def _make_room(parent: int, name: bytes, member: Member) -> None:
    """A later member replaces an earlier one, but never a directory with something in it."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        try:
            os.rmdir(name, dir_fd=parent)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            raise ArchiveError(f"{member.kind.value} {quoted(member.name)}: a directory with files is there") from None


def _put_file(parent: int, name: bytes, member: Member, data: Data) -> None:
    file = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
    try:
        for offset, piece in data:
            _write(file, piece, offset)
        if sum(length for _, length in member.parts) != member.size:
            os.ftruncate(file, member.size)  # ends with a hole
        _set_attributes(file, member)
        os.utime(file, ns=(member.mtime, member.mtime))
    finally:
        os.close(file)


def _write(file: int, piece: memoryview, offset: int) -> None:
    while piece:
        count = os.pwrite(file, piece, offset)
        piece, offset = piece[count:], offset + count


def _put_node(parent: int, name: bytes, member: Member) -> None:
    match member.kind:
        case MemberKind.SYMLINK:
            os.symlink(member.link, name, dir_fd=parent)
        case MemberKind.FIFO:
            os.mkfifo(name, 0o600, dir_fd=parent)
        case kind:
            os.mknod(name, _DEVICE[kind] | 0o600, _device_number(member), dir_fd=parent)
    # O_PATH opens the thing itself, also a link or a device without a driver, and /proc/self/fd leads exactly there: so
    # chown(2) and the others, which take no O_PATH descriptor, act on it.
    node = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        path = f"/proc/self/fd/{node}"
        _set_attributes(path, member)
        os.utime(path, ns=(member.mtime, member.mtime))
    finally:
        os.close(node)


def _device_number(member: Member) -> int:
    if member.major >= 1 << 12 or member.minor >= 1 << 20:  # include/linux/kdev_t.h
        raise ArchiveError(f"device {quoted(member.name)}: number {member.major}:{member.minor} is too large")
    return os.makedev(member.major, member.minor)


def _set_attributes(target: int | str, member: Member) -> None:
    # In this order: chown(2) clears set-user-ID bits and file capabilities.
    os.chown(target, member.uid, member.gid)
    if member.kind is not MemberKind.SYMLINK:
        os.chmod(target, member.mode)
    for name, value in _kept(member.xattrs):
        try:
            os.setxattr(target, name, value)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise


def _kept(xattrs: dict[bytes, bytes]) -> Iterator[tuple[bytes, bytes]]:
    for name, value in xattrs.items():
        if name.startswith(b"user.") or name == b"security.capability":
            yield name, value


def _status(directory: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _no_link_target(member: Member) -> ArchiveError:
    return ArchiveError(
        f"hard link {quoted(member.name)} to {quoted(member.link)}, which is no earlier file of the archive"
    )
