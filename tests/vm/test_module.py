"""The kernel module: built for every kernel without a warning, and tested inside guests that run them."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from tests.vm import kernels
from tests.vm.jobs import Guests, Job

from wherry.kernel import container_monitor

pytestmark = [pytest.mark.vm, pytest.mark.timeout(7200)]

KMOD = kernels.REPOSITORY / "kmod"


@pytest.mark.parametrize("kernel", kernels.NAMES)
def test_it_builds_without_a_warning(guests: Guests, kernel: str) -> None:
    """With the compiler's extra warnings, and sparse, which knows user pointers, locks and RCU."""
    assert guests.build(kernel) == ""


def test_sparse_is_at_work(tmp_path: Path) -> None:
    """A fault that only it finds: else the test above would pass without it."""
    shutil.copytree(KMOD, tmp_path / "kmod")
    device = tmp_path / "kmod/device.c"
    source = device.read_text()
    device.write_text(source.replace("void __user *arg = (void __user *)value;", "void *arg = (void *)value;"))
    built = subprocess.run(
        ["make", "-s", "-C", tmp_path / "kmod", f"KDIR={kernels.KERNELS}/amd64/build", "C=1"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "different address spaces" in built.stderr


PROGRAM = r"""
#include <stddef.h>
#include <stdio.h>
#include "container_monitor.h"
#define SIZE(name) printf("size " #name " %zu\n", sizeof(struct container_monitor_##name))
#define CALL(name) printf("call " #name " %lu\n", (unsigned long)CONTAINER_MONITOR_##name)
#define OFFSET(name, field) \
	printf("offset " #name "." #field " %zu\n", offsetof(struct container_monitor_##name, field))
int main(void)
{
	SIZE(version); SIZE(register); SIZE(update); SIZE(event); SIZE(status);
	CALL(GET_VERSION); CALL(REGISTER); CALL(UPDATE); CALL(UNREGISTER); CALL(STAT);
	OFFSET(version, interval_ms); OFFSET(version, dropped);
	OFFSET(register, key); OFFSET(register, hard_bytes); OFFSET(register, id);
	OFFSET(update, key); OFFSET(update, hard_bytes);
	OFFSET(event, type); OFFSET(event, key); OFFSET(event, dropped); OFFSET(event, pid); OFFSET(event, comm);
	OFFSET(status, state); OFFSET(status, scans); OFFSET(status, pid); OFFSET(status, hard); OFFSET(status, id);
	return 0;
}
"""
OFFSETS = {
    "version.interval_ms": "=II",
    "version.dropped": "=IIII",
    "register.key": "=iI",
    "register.hard_bytes": "=iIQQ",
    "register.id": "=iIQQQ",
    "update.key": "=II",
    "update.hard_bytes": "=IIQQ",
    "event.type": "=I",
    "event.key": "=II",
    "event.dropped": "=IIQQQQQ",
    "event.pid": "=IIQQQQQQII",
    "event.comm": "=IIQQQQQQIIiI",
    "status.state": "=QI",
    "status.scans": "=QIIQQQQ",
    "status.pid": "=QIIQQQQQI",
    "status.hard": "=QIIQQQQQIi",
    "status.id": "=QIIQQQQQIi88s",
}
"""What stands before each field in the formats of ``kernel.container_monitor``."""


def test_python_and_c_agree_on_the_structures(tmp_path: Path) -> None:
    source, program = tmp_path / "layout.c", tmp_path / "layout"
    source.write_text(PROGRAM)
    subprocess.run(["cc", "-Wall", "-Werror", "-I", KMOD / "uapi", "-o", program, source], check=True)
    said = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    found = {f"{kind} {name}": int(number) for kind, name, number in (line.split() for line in said.splitlines())}
    calls = ("GET_VERSION", "REGISTER", "UPDATE", "UNREGISTER", "STAT")
    assert found == {
        **{f"size {name}": size for name, size in container_monitor.SIZES.items()},
        **{f"call {name}": getattr(container_monitor, name) for name in calls},
        **{f"offset {name}": struct.calcsize(before) for name, before in OFFSETS.items()},
    }


def test_the_structures_are_the_same_on_32_bits(tmp_path: Path) -> None:
    """A 32-bit program may use the device of a 64-bit kernel."""
    source = tmp_path / "layout.c"
    sizes = (
        f'_Static_assert(sizeof(struct container_monitor_{name}) == {size}, "{name}");\n'
        for name, size in container_monitor.SIZES.items()
    )
    source.write_text(f'#include "container_monitor.h"\n{"".join(sizes)}')
    # No C library of the other word size is needed for this, and the kernel's headers are the same for both.
    machine = subprocess.run(["cc", "-print-multiarch"], check=True, capture_output=True, text=True).stdout.strip()
    includes = ["-I", str(KMOD / "uapi"), "-isystem", f"/usr/include/{machine}"]
    subprocess.run(["cc", "-m32", "-ffreestanding", "-fsyntax-only", *includes, source], check=True)


PROBE = "tests/vm/inside/test_probe.py"
WAITS = "tests/vm/inside/test_waits.py"
FILES = ("limits", "device", "probe", "waits", "races")
JOBS = {
    f"{kernel}-{file}": Job(kernel, "module", f"tests/vm/inside/test_{file}.py")
    for kernel in kernels.NAMES
    for file in FILES
}
# More CPUs keep more of a counter to themselves, and what a check, a reader and a removal do can overlap in more ways.
# Who holds up whom is told by two: four that share what this machine has left all hold up each other.
JOBS |= {
    f"{kernel}-four-cpus": Job(kernel, "four-cpus", f"{PROBE} {WAITS} -k 'not holds_up_nobody'", cpus=4)
    for kernel in ("amd64", "6.12-amd64")
}


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_inside(guests: Guests, job: Job) -> None:
    guests.wait(job)
