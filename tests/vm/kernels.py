"""The kernels that scripts/fetch-kernels.sh has unpacked: their images for guests, their build trees for the module."""

from __future__ import annotations

import lzma
import os
import shutil
import struct
import subprocess
import threading
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
KERNELS = REPOSITORY / "build/kernels"
NAMES = ("amd64", "rt-amd64", "6.12-amd64")
"""Links in ``KERNELS``: Debian's flavours, whatever release of them was unpacked."""
UML = "uml"
"""Debian's User-Mode Linux: a program, three times as fast as an emulated kernel. It has control groups version 2 (but
no cpuset) and one CPU; no BTF, no tracepoints, and the module is not built for it.
"""
DEBUG = "debug"
"""The one of scripts/build-debug-kernel.sh: User-Mode Linux as well."""


def can_be_booted() -> bool:
    return all(map(shutil.which, ("qemu-system-x86_64", "sparse"))) and are_unpacked()


def are_unpacked() -> bool:
    return all((KERNELS / name / "vmlinuz").exists() for name in NAMES) and program(UML).exists()


def release(name: str) -> str:
    return (KERNELS / name).resolve().name


def vmlinux(name: str) -> Path:
    """The uncompressed image, made once: under emulation unpacking the compressed one takes longer than the boot."""
    path = KERNELS / name / "vmlinux"
    with _UNPACKING:  # guests begin side by side
        if not path.exists():
            part = path.with_suffix(f".{os.getpid()}")
            part.write_bytes(_payload((KERNELS / name / "vmlinuz").read_bytes()))
            part.rename(path)
    return path


def _payload(image: bytes) -> bytes:
    # Documentation/arch/x86/boot.rst: setup_sects, payload_offset and payload_length
    start = ((image[0x1F1] or 4) + 1) * 512
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[start + offset : start + offset + length]
    if payload.startswith(b"\xfd7zXZ\0"):
        # The kernel's build appends the uncompressed size, which is no part of the stream.
        elf = lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(payload)
    elif payload.startswith(b"\x28\xb5\x2f\xfd"):
        elf = subprocess.run(["zstd", "-dcq"], input=payload[:-4], stdout=subprocess.PIPE, check=True).stdout
    else:
        raise AssertionError(f"a kernel image compressed in an unknown way: {payload[:6]!r}")
    assert elf.startswith(b"\x7fELF")
    return elf


def program(name: str) -> Path:
    """The kernel that is a program: UML, DEBUG."""
    return KERNELS / name / "linux"


def overlay_module(name: str) -> bytes:
    (path,) = (KERNELS / name / "modules").glob("overlay.ko*")
    content = path.read_bytes()
    return lzma.decompress(content) if path.suffix == ".xz" else content


_UNPACKING = threading.Lock()
_BUILDING = {name: threading.Lock() for name in (*NAMES, DEBUG)}
_BUILT: dict[str, tuple[Path, str]] = {}


def build_module_anew(name: str) -> tuple[Path, str]:
    """``build_module`` from nothing, with the compiler's extra warnings and sparse; once in a process."""
    with _BUILDING[name]:
        if name not in _BUILT:
            shutil.rmtree(REPOSITORY / "build/kmod" / name, ignore_errors=True)
            _BUILT[name] = build_module(name, "W=1", "C=1")
        return _BUILT[name]


def build_module(name: str, *arguments: str) -> tuple[Path, str]:
    """Build kmod/ for a kernel in build/kmod/NAME; returns monitor.ko and what the build wrote on stderr."""
    output = REPOSITORY / "build/kmod" / name
    settings = [f"KDIR={KERNELS / name / 'build'}", f"OUT={output}", *(["ARCH=um"] if name == DEBUG else [])]
    built = subprocess.run(
        ["make", "-s", "-C", REPOSITORY / "kmod", *settings, *arguments],
        check=False,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    return output / "monitor.ko", built.stderr
