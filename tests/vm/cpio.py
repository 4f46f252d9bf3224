"""Archives in the "newc" format of an initramfs (Documentation/driver-api/early-userspace/buffer-format.rst)."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO


class Archive:
    """Entries are written as they are added; directories above them come by themselves, and nothing comes twice."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._inode = 0
        self._seen: set[str] = set()

    def directory(self, name: str) -> None:
        name = name.strip("/")
        if name and name not in self._seen:
            self._parents(name)
            self._entry(name, stat.S_IFDIR | 0o755, b"")

    def file(self, name: str, content: bytes, mode: int = 0o644, mtime: float = 0) -> None:
        name = name.strip("/")
        if name not in self._seen:
            self._parents(name)
            self._entry(name, stat.S_IFREG | mode, content, int(mtime))

    def symlink(self, name: str, target: str) -> None:
        name = name.strip("/")
        if name not in self._seen:
            self._parents(name)
            self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def device(self, name: str, major: int, minor: int) -> None:
        self._parents(name.strip("/"))
        self._entry(name.strip("/"), stat.S_IFCHR | 0o600, b"", device=(major, minor))

    def copy(self, path: Path, name: str | None = None) -> None:
        """A file of this machine, under the same name or another. A symbolic link becomes what it points to.

        Keeps the time of change: Python's byte code names that of its source.
        """
        status = path.stat()
        self.file(name or str(path), path.read_bytes(), status.st_mode & 0o777, status.st_mtime)

    def tree(self, top: Path, name: str | None = None, leave_out: frozenset[str] = frozenset()) -> None:
        """A directory with all below it, its symbolic links as they are, without what is named in ``leave_out``."""
        for folder, folders, files in os.walk(top):
            folders[:] = sorted(entry for entry in folders if entry not in leave_out)
            place = f"{name or top}/{Path(folder).relative_to(top)}"
            self.directory(os.path.normpath(place))
            for entry in sorted(files):
                path, inside = Path(folder, entry), os.path.normpath(f"{place}/{entry}")
                if path.is_symlink():
                    self.symlink(inside, os.readlink(path))
                elif entry not in leave_out:
                    self.copy(path, inside)

    def close(self) -> None:
        """The trailer, and padding so that another archive can follow."""
        self._entry("TRAILER!!!", 0, b"")
        self._file.write(bytes(-self._file.tell() % 512))

    def _parents(self, name: str) -> None:
        self.directory(os.path.dirname(name))

    def _entry(self, name: str, mode: int, content: bytes, mtime: int = 0, device: tuple[int, int] = (0, 0)) -> None:
        self._seen.add(name)
        self._inode += 1
        path = name.encode() + b"\0"
        numbers = (self._inode, mode, 0, 0, 1, mtime, len(content), 0, 0, *device, len(path), 0)
        head = b"070701" + b"".join(b"%08X" % number for number in numbers) + path
        self._file.write(head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4))
