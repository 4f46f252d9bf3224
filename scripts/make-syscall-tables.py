#!/usr/bin/env python3
"""Write src/wherry/kernel/syscalls.json from the headers of a kernel that scripts/fetch-kernels.sh has unpacked.

    scripts/make-syscall-tables.py build/kernels/6.12-amd64

One line a system call: its number on x86_64, x32, i386 and aarch64, null where there is none. 32-bit ARM is left out:
its table is in no header of another architecture.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

OUTPUT = Path(__file__).parents[1] / "src/wherry/kernel/syscalls.json"
ARCHITECTURES = ("x86_64", "x32", "i386", "aarch64")
_X32_BIT = 0x40000000
# Younger than the headers. From 424 on a number is the same everywhere (include/uapi/asm-generic/unistd.h).
_YOUNGER = {
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
    "open_tree_attr": 467,
    "file_getattr": 468,
    "file_setattr": 469,
}


def _defines(text: str) -> dict[str, int]:
    number = r"#define __NR(?:3264)?_(\w+)\s+(?:\(?__X32_SYSCALL_BIT \+ )?(\d+)\)?"
    found = {name: int(value) for name, value in re.findall(number, text)}
    found.pop("syscalls", None)  # how many there are
    return found


def _aarch64(text: str) -> dict[str, int]:
    """The generic table as a 64-bit architecture sees it: __NR3264_fcntl is fcntl there, and so on."""
    found = _defines(re.sub(r"#if __BITS_PER_LONG == 32.*?#endif", "", text, flags=re.DOTALL))
    native, _, _ = text.partition("#if __BITS_PER_LONG == 64 &&")[2].partition("#else")
    for name, shared in re.findall(r"#define __NR_(\w+)\s+__NR3264_(\w+)", native):
        if name != shared and shared in found:
            found[name] = found.pop(shared)
    # arch/arm64/include/uapi/asm/unistd.h asks for these by __ARCH_WANT_*; it does not ask for sync_file_range2.
    unwanted = {"arch_specific_syscall", "sync_file_range2", "riscv_hwprobe", "riscv_flush_icache"}
    return {name: value for name, value in found.items() if name not in unwanted}


def tables(kernel: Path) -> dict[str, dict[str, int]]:
    (generated,) = kernel.glob("usr/src/linux-headers-*/arch/x86/include/generated/uapi/asm")
    (generic,) = kernel.glob("usr/src/linux-headers-*-common/include/uapi/asm-generic/unistd.h")
    x32 = _defines((generated / "unistd_x32.h").read_text())
    result = {
        "x86_64": _defines((generated / "unistd_64.h").read_text()),
        "x32": {name: _X32_BIT + number for name, number in x32.items()},
        "i386": _defines((generated / "unistd_32.h").read_text()),
        "aarch64": _aarch64(generic.read_text()),
    }
    for name, numbers in result.items():
        bit = _X32_BIT if name == "x32" else 0
        numbers.update({call: bit + number for call, number in _YOUNGER.items()})
    return result


def main(kernel: str) -> None:
    found = tables(Path(kernel))
    names = sorted({name for numbers in found.values() for name in numbers})
    lines = (
        f"  {json.dumps(name)}: {json.dumps([found[architecture].get(name) for architecture in ARCHITECTURES])}"
        for name in names
    )
    OUTPUT.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1])
