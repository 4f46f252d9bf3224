"""Why execve(2) refuses a file: its errno says ENOENT for a missing interpreter just as for a missing file.

The file is read as data, a bounded part of it, by the process that was about to become it: with the container's user,
root and limits, so there is nothing to be had that the container may not read anyway. What it says is the container's
and may be anything: it is quoted.
"""

from __future__ import annotations

import errno
import os
import stat
import struct

_LINE_MAX = 256  # BINPRM_BUF_SIZE (include/uapi/linux/binfmts.h): what the kernel reads of a script
_SCRIPTS_MAX = 6  # the kernel follows five interpreters that are scripts (fs/exec.c, exec_binprm)
_HEADERS_MAX = 65536  # of an ELF file (fs/binfmt_elf.c, load_elf_phdrs)
_PATH_MAX = 4096
_SHOWN_MAX = 100
_INTERPRETER = 3  # PT_INTERP, include/uapi/linux/elf.h
_EXPLAINED = (errno.ENOENT, errno.ENOTDIR, errno.ENOEXEC, errno.EACCES)

# include/uapi/linux/elf-em.h; (machine, 64 bit) to what uname(2) calls it
_MACHINES = {
    (3, False): "i386",
    (8, False): "mips",
    (8, True): "mips64",
    (20, False): "ppc",
    (21, True): "ppc64",
    (22, True): "s390x",
    (40, False): "arm",
    (62, False): "x32",
    (62, True): "x86_64",
    (183, True): "aarch64",
    (243, False): "riscv32",
    (243, True): "riscv64",
    (258, True): "loongarch64",
}

_LITTLE = {"ppc64": "ppc64le", "mips": "mipsel", "mips64": "mips64el"}
_PROGRAMS = (2, 3)  # ET_EXEC, ET_DYN


def explain(path: str, number: int) -> str:
    """What is wrong with the file at ``path``, on which execve failed with ``number``; "" when nothing is known beyond
    what the number says, or the file is not there itself.
    """
    if number not in _EXPLAINED:
        return ""
    try:
        if number == errno.EACCES:
            reason = _explain_access(path)
            return f"permission denied: {reason}" if reason else ""
        return _explain_content(path, number)
    except (OSError, ValueError, IndexError, struct.error):  # not ours to read, gone meanwhile, a file cut off
        return ""


def _explain_access(path: str) -> str:
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        return "it is a directory"
    if not stat.S_ISREG(status.st_mode):
        return "it is not a regular file"
    if os.statvfs(path).f_flag & os.ST_NOEXEC:
        return "its file system is mounted noexec"
    if not os.access(path, os.X_OK):
        return ""
    interpreter, what = _interpreter_of(_head(path, _LINE_MAX), path)
    return f"its {what} {_quoted(interpreter)} cannot be executed" if interpreter else ""


def _explain_content(path: str, number: int) -> str:
    """Follows interpreters: that of a script may be a script, or a program without its loader."""
    subject = "it"
    for _ in range(_SCRIPTS_MAX):
        head = _head(path, _LINE_MAX)
        if number == errno.ENOEXEC and (fault := _format_fault(head)):
            return f"exec format error: {subject} {fault}"
        interpreter, what = _interpreter_of(head, path)
        if not interpreter:
            return ""
        named = f"{what} {_quoted(interpreter)}"
        subject = f"its {named}" if subject == "it" else f"the {named} of {_quoted(os.fsencode(path))}"
        try:
            os.stat(interpreter)
        except OSError as error:
            return f"{subject} {_absence(interpreter, error)}"
        path = os.fsdecode(interpreter)
    return ""


def _absence(interpreter: bytes, error: OSError) -> str:
    if error.errno != errno.ENOENT:
        return f"cannot be reached: {os.strerror(error.errno or 0).lower()}"
    return "is not there" + (": the script's lines end in CR LF" if interpreter.endswith(b"\r") else "")


def _head(path: str, size: int) -> bytes:
    # A FIFO does not block.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b""
        return os.pread(descriptor, size, 0)
    finally:
        os.close(descriptor)


def _interpreter_of(head: bytes, path: str) -> tuple[bytes, str]:
    """The interpreter that the file names, and what it is called; b"" when it names none."""
    if head.startswith(b"#!"):
        return _of_script(head), "interpreter"
    if head.startswith(b"\x7fELF"):
        return _of_program(_head(path, _HEADERS_MAX), path), "program interpreter"
    return b"", ""


def _of_script(head: bytes) -> bytes:
    """As fs/binfmt_script.c: blanks around it are not part of it, but a carriage return is."""
    words = head[2:].partition(b"\n")[0].partition(b"\0")[0].replace(b"\t", b" ").split(b" ")
    return next((word for word in words if word), b"")


def _of_program(head: bytes, path: str) -> bytes:
    """PT_INTERP of an ELF file: elf(5)."""
    is_64 = head[4] == 2
    order = ">" if head[5] == 2 else "<"
    offset, size, count = _headers(head, is_64, order)
    for number in range(count):
        header = head[offset + number * size : offset + (number + 1) * size]
        if struct.unpack_from(f"{order}I", header)[0] != _INTERPRETER:
            continue
        form = f"{order}8xQ16xQ" if is_64 else f"{order}4xI8xI"
        place, length = struct.unpack_from(form, header)
        return _part(path, place, min(length, _PATH_MAX)).partition(b"\0")[0]
    return b""


def _headers(head: bytes, is_64: bool, order: str) -> tuple[int, int, int]:
    """Where the program headers are, the size of one and their number, as far as they are in ``head``."""
    (offset,) = struct.unpack_from(f"{order}{'Q' if is_64 else 'I'}", head, 32 if is_64 else 28)
    size, count = struct.unpack_from(f"{order}HH", head, 54 if is_64 else 42)
    least = 56 if is_64 else 32
    if size < least or offset > len(head):
        return 0, least, 0
    return offset, size, min(count, (len(head) - offset) // size)


def _part(path: str, offset: int, size: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, size, offset)
    except OverflowError:  # an offset beyond 2^63
        return b""
    finally:
        os.close(descriptor)


def _format_fault(head: bytes) -> str:
    if not head:
        return "is empty"
    if head.startswith(b"#!"):
        return _script_fault(head)
    if not head.startswith(b"\x7fELF"):
        return "is neither an ELF program nor a script that begins with #!"
    if len(head) < 20:
        return "is cut off"
    is_64 = head[4] == 2
    is_little = head[5] != 2
    kind, machine = struct.unpack_from("<HH" if is_little else ">HH", head, 16)
    name = _MACHINES.get((machine, is_64), f"machine {machine} ({64 if is_64 else 32} bit)")
    name = _LITTLE.get(name, name) if is_little else name
    here = os.uname().machine
    if name != here:
        return f"is a program for {name}, and this machine is {here}"
    return "is a damaged ELF program" if kind in _PROGRAMS else "is an ELF file, but not a program"


def _script_fault(head: bytes) -> str:
    interpreter = _of_script(head)
    if not interpreter:
        return "names no interpreter after #!"
    if len(head) == _LINE_MAX and head.endswith(interpreter):
        return f"names an interpreter of more than {len(interpreter)} bytes"
    return ""


def _quoted(name: bytes) -> str:
    text = os.fsdecode(name)
    return repr(text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 3] + "...")
