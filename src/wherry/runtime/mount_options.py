"""Mount options as mount(8) and the OCI runtime spec write them, to flags of mount(2) and of the mount API."""

from __future__ import annotations

from typing import NamedTuple

from wherry.errors import InvalidRequest
from wherry.kernel import mounts

# option: (MS_* flag, MOUNT_ATTR_* flag)
_SET = {
    "ro": (mounts.MS_RDONLY, mounts.MOUNT_ATTR_RDONLY),
    "nosuid": (mounts.MS_NOSUID, mounts.MOUNT_ATTR_NOSUID),
    "nodev": (mounts.MS_NODEV, mounts.MOUNT_ATTR_NODEV),
    "noexec": (mounts.MS_NOEXEC, mounts.MOUNT_ATTR_NOEXEC),
    "strictatime": (mounts.MS_STRICTATIME, 0x20),
}
_CLEAR = {"rw": "ro", "suid": "nosuid", "dev": "nodev", "exec": "noexec"}
_BIND = {"bind": False, "rbind": True}
_IGNORED = ("relatime", "defaults", "private", "rprivate")


class Options(NamedTuple):
    """``flags``: MS_* bits; ``attributes``: MOUNT_ATTR_* bits; ``data``: what is left for the file system, as pairs."""

    flags: int
    attributes: int
    data: list[tuple[str, str | None]]
    recursive: bool
    mapped: str = ""
    """``idmap``, ``ridmap`` (all that is mounted below as well) or "" for neither."""

    @property
    def read_only(self) -> bool:
        return bool(self.flags & mounts.MS_RDONLY)

    def data_string(self) -> str:
        return ",".join(key if value is None else f"{key}={value}" for key, value in self.data)


def parse(options: tuple[str, ...]) -> Options:
    """Later options override earlier ones. Raises InvalidRequest for a propagation or bind option that is not
    carried out.
    """
    chosen: dict[str, tuple[int, int]] = {}
    data: list[tuple[str, str | None]] = []
    recursive = False
    mapped = ""
    for option in options:
        if option in _SET:
            chosen[option] = _SET[option]
        elif option in _CLEAR:
            chosen.pop(_CLEAR[option], None)
        elif option in _BIND:
            recursive = _BIND[option]
        elif option in ("idmap", "ridmap"):
            mapped = option
        elif option in ("shared", "rshared", "slave", "rslave", "remount"):
            raise InvalidRequest(f"mount option {option!r} is not supported")
        elif option and option not in _IGNORED:
            key, separator, value = option.partition("=")
            data.append((key, value if separator else None))
    flags = sum(flag for flag, _ in chosen.values())
    return Options(flags, sum(attribute for _, attribute in chosen.values()), data, recursive, mapped)
