"""Starting a shim: a program of its own, which outlives the supervisor."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from pathlib import Path

import wherry
from wherry.errors import InternalError
from wherry.kernel import mounts, trust

_CODE = "import sys; sys.path.append({path!r}); from wherry.shim.main import main; main(3)"


def start_shim(socket_path: Path, log_path: Path) -> int:
    """Have one listen on ``socket_path``, in the place of what is there; returns its pid. Raises InternalError,
    OSError.
    """
    socket_path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as listener:
        # bind(2) makes the file with the mode of the socket's own inode.
        os.fchmod(listener.fileno(), 0o600)
        with _ShortPath(socket_path) as path:
            listener.bind(path)
        listener.listen(8)
        return _execute(listener.fileno(), log_path)


class _ShortPath:
    """A name for a socket below the 107 bytes that sun_path holds, whatever the length of the directory:
    /proc/self/fd/N/name.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> str:
        self._directory = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._directory}/{self._path.name}"

    def __exit__(self, *_exception: object) -> None:
        os.close(self._directory)


def _execute(listener: int, log_path: Path) -> int:
    """Start the shim's interpreter from a read-only mount of its file; returns its pid.

    /proc/PID/exe of a container's first process is that file until it calls execve. A hostile rootfs can get a
    descriptor of it (CVE-2019-5736: a script with ``#!/proc/self/exe``), but not open it for writing: the mount it
    came from is read-only, is in no namespace, and so cannot be remounted.
    """
    package = str(Path(wherry.__file__).resolve().parent.parent)
    arguments = [sys.executable, "-I", "-S", "-B", "-c", _CODE.format(path=package)]
    with contextlib.ExitStack() as used:
        log = _open_log(log_path)
        used.callback(os.close, log)
        executable = mounts.clone_tree(os.path.realpath(sys.executable))
        used.callback(os.close, executable)
        mounts.set_attributes(executable, mounts.MOUNT_ATTR_RDONLY)
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, log, 1),
            (os.POSIX_SPAWN_DUP2, log, 2),
            (os.POSIX_SPAWN_DUP2, listener, 3),
        ]
        # Nothing else of our environment: a parked process shows it in /proc/PID/environ.
        environment = {key: value for key, value in os.environ.items() if key in ("PATH", "LD_LIBRARY_PATH")}
        environment["LANG"] = "C.UTF-8"
        return os.posix_spawn(f"/proc/self/fd/{executable}", arguments, environment, file_actions=actions)


def _open_log(path: Path) -> int:
    try:
        return trust.open_file(str(path), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    except trust.DistrustedError as error:
        raise InternalError(f"cannot start the shim: {error}") from None
