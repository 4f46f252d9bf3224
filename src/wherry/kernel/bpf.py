"""bpf(2): maps, programs and their attachment. Layouts are those of union bpf_attr, include/uapi/linux/bpf.h.

All functions raise OSError with the command's name; descriptors they return are close-on-exec.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from wherry.kernel.libc import CBuffer, call_error
from wherry.kernel.libc import bpf as _bpf

_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _MAP_NEXT, _PROG_LOAD = range(6)
_OBJ_PIN, _OBJ_GET, _TEST_RUN, _PROG_BY_ID, _RAW_TRACEPOINT_OPEN, _BTF_LOAD, _MAP_FREEZE = 6, 7, 10, 13, 17, 18, 22
_LINK_CREATE, _ITER_CREATE = 28, 33
_NAMES = {
    _MAP_CREATE: "BPF_MAP_CREATE",
    _MAP_LOOKUP: "BPF_MAP_LOOKUP_ELEM",
    _MAP_UPDATE: "BPF_MAP_UPDATE_ELEM",
    _MAP_DELETE: "BPF_MAP_DELETE_ELEM",
    _MAP_NEXT: "BPF_MAP_GET_NEXT_KEY",
    _PROG_LOAD: "BPF_PROG_LOAD",
    _OBJ_PIN: "BPF_OBJ_PIN",
    _OBJ_GET: "BPF_OBJ_GET",
    _LINK_CREATE: "BPF_LINK_CREATE",
    _ITER_CREATE: "BPF_ITER_CREATE",
    _TEST_RUN: "BPF_PROG_TEST_RUN",
    _PROG_BY_ID: "BPF_PROG_GET_FD_BY_ID",
    _RAW_TRACEPOINT_OPEN: "BPF_RAW_TRACEPOINT_OPEN",
    _BTF_LOAD: "BPF_BTF_LOAD",
    _MAP_FREEZE: "BPF_MAP_FREEZE",
}

# enum bpf_map_type
HASH, ARRAY, PERCPU_ARRAY, RINGBUF = 1, 2, 6, 27
# map_flags
RDONLY_PROG, MMAPABLE = 1 << 7, 1 << 10
# enum bpf_prog_type
RAW_TRACEPOINT, TRACING = 17, 26
_TRACE_ITER = 28  # enum bpf_attach_type
# flags of an update
ANY, NOEXIST, EXIST = 0, 1, 2

_LOG_BYTES = 1 << 20


def _call(command: int, attributes: bytes) -> int:
    buffer = CBuffer(attributes)
    try:
        return _bpf(command, buffer.address, len(attributes))
    except OSError as error:
        raise call_error(error.errno or 0, f"bpf {_NAMES[command]}") from None


def _name(text: str) -> bytes:
    """At most 15 characters, letters, digits, underscores and dots."""
    return text.encode()[:15]


def create_map(kind: int, key_size: int, value_size: int, entries: int, flags: int = 0, name: str = "") -> int:
    return _call(
        _MAP_CREATE, struct.pack("=7I16s4I", kind, key_size, value_size, entries, flags, 0, 0, _name(name), 0, 0, 0, 0)
    )


def update(descriptor: int, key: bytes, value: bytes, flags: int = ANY) -> None:
    keys, values = CBuffer(key), CBuffer(value)
    _call(_MAP_UPDATE, struct.pack("=I4xQQQ", descriptor, keys.address, values.address, flags))


def lookup(descriptor: int, key: bytes, value_size: int) -> bytes:
    """``value_size`` must be the map's: the kernel writes that much. Raises OSError (ENOENT) for an unknown key."""
    keys, values = CBuffer(key), CBuffer(size=value_size)
    _call(_MAP_LOOKUP, struct.pack("=I4xQQQ", descriptor, keys.address, values.address, 0))
    return values.content[:value_size]


def delete(descriptor: int, key: bytes) -> bool:
    """False when there is no such key."""
    keys = CBuffer(key)
    try:
        _call(_MAP_DELETE, struct.pack("=I4xQ", descriptor, keys.address))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return True


def keys(descriptor: int, key_size: int) -> Iterator[bytes]:
    """All keys of a map that may change meanwhile: a key may come twice or be missed then."""
    current: CBuffer | None = None
    while True:
        following = CBuffer(size=key_size)
        try:
            address = current.address if current is not None else 0
            _call(_MAP_NEXT, struct.pack("=I4xQQ", descriptor, address, following.address))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            return
        yield following.content[:key_size]
        current = following


def freeze(descriptor: int) -> None:
    """No more writing from user space: the verifier may then take the map's content for constants."""
    _call(_MAP_FREEZE, struct.pack("=I", descriptor))


def load_btf(btf: bytes) -> int:
    buffer = CBuffer(btf)
    return _call(_BTF_LOAD, struct.pack("=QQIII", buffer.address, 0, len(btf), 0, 0))


class BtfRecords(NamedTuple):
    """Records of .BTF.ext for one program: ``size`` bytes each."""

    content: bytes
    size: int

    @property
    def number(self) -> int:
        return len(self.content) // self.size if self.size else 0


class Program(NamedTuple):
    """What the kernel is to load: relocated instructions, the object's BTF, what it says of the program, and the CO-RE
    relocations that the kernel is to carry out (from 5.17 on).
    """

    name: str
    instructions: bytes
    btf: int
    functions: BtfRecords
    relocations: BtfRecords
    iterates: int = 0
    """Of an iterator, the number of its ``bpf_iter_...`` function in the kernel's own BTF."""


def load_program(program: Program, kind: int, *, with_log: bool = False) -> int:
    """Raises OSError; its text ends with the verifier's last words when ``with_log``."""
    log = CBuffer(size=_LOG_BYTES) if with_log else None
    try:
        return _load(program, kind, log)
    except OSError as error:
        if log is not None:
            lines = log.content.rstrip(b"\0").decode(errors="replace").strip().splitlines()
            last = [line for line in lines if not line.startswith(("processed", "verification time"))][-2:]
            error.strerror = f"{error.strerror}: {' / '.join(last)}"
        raise


def _load(program: Program, kind: int, log: CBuffer | None) -> int:
    code, license_name = CBuffer(program.instructions), CBuffer(b"GPL\0")
    functions, relocations = CBuffer(program.functions.content), CBuffer(program.relocations.content)
    attributes = struct.pack("=IIQQ", kind, len(program.instructions) // 8, code.address, license_name.address)
    attributes += struct.pack("=IIQ", int(log is not None), _LOG_BYTES if log else 0, log.address if log else 0)
    attach_type = _TRACE_ITER if program.iterates else 0
    attributes += struct.pack("=II16sII", 0, 0, _name(program.name), 0, attach_type)
    attributes += struct.pack("=IIQI", program.btf, program.functions.size, functions.address, program.functions.number)
    attributes += struct.pack("=IQI", 0, 0, 0)  # no line information
    attributes += struct.pack("=III", program.iterates, 0, program.relocations.number)  # attach_prog_fd is 0
    attributes += struct.pack("=QQI4x", 0, relocations.address, program.relocations.size)
    return _call(_PROG_LOAD, attributes)


def attach_raw_tracepoint(program: int, tracepoint: str) -> int:
    """Returns the link: the program runs for as long as somebody holds it. Raises OSError (ENOENT) when this kernel has
    no such tracepoint.
    """
    name = CBuffer(tracepoint.encode() + b"\0")
    return _call(_RAW_TRACEPOINT_OPEN, struct.pack("=QI4x", name.address, program))


def program_of(link: int) -> int:
    """The program that a link keeps attached (fdinfo of a link, kernel/bpf/syscall.c: bpf_link_show_fdinfo)."""
    with open(f"/proc/self/fdinfo/{link}", encoding="ascii") as file:
        number = next(int(line.split()[1]) for line in file if line.startswith("prog_id:"))
    return _call(_PROG_BY_ID, struct.pack("=3I", number, 0, 0))


def run_raw_tracepoint(program: int, *arguments: int) -> int:
    """Run a program once, here and now, with these arguments as its context; returns what it returns."""
    content = struct.pack(f"={len(arguments)}Q", *arguments)
    context = CBuffer(content)
    attributes = CBuffer(
        struct.pack("=IIIIQQIIIIQQIIII", program, *[0] * 7, len(content), 0, context.address, *[0] * 5)
    )
    try:
        _bpf(_TEST_RUN, attributes.address, len(attributes.content))
    except OSError as error:
        raise call_error(error.errno or 0, f"bpf {_NAMES[_TEST_RUN]}") from None
    (result,) = struct.unpack_from("=I", attributes.content, 4)
    return int(result)


def iterate(program: int) -> bytes:
    """Run an iterator over all that there is, here and now; returns what it has written."""
    link = _call(_LINK_CREATE, struct.pack("=4IQI4x", program, 0, _TRACE_ITER, 0, 0, 0))
    try:
        iterator = _call(_ITER_CREATE, struct.pack("=II", link, 0))
    finally:
        os.close(link)
    with open(iterator, "rb", buffering=0) as file:
        return file.readall()


def map_id(descriptor: int) -> int:
    """A map's number, which no other one on this machine has had or gets before billions of others."""
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("map_id:"))


def pin(descriptor: int, path: str) -> None:
    """Have a map, program or link live on by a name in a mounted bpffs, whoever closes it."""
    name = CBuffer(path.encode() + b"\0")
    _call(_OBJ_PIN, struct.pack("=QI4x", name.address, descriptor))


def open_pin(path: str) -> int:
    name = CBuffer(path.encode() + b"\0")
    return _call(_OBJ_GET, struct.pack("=QI4x", name.address, 0))
