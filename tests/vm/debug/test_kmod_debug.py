"""The kernel module in a kernel with KASAN, lockdep, kmemleak and DEBUG_OBJECTS: ``make test-kmod-debug``."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.vm import kernels, uml
from tests.vm.jobs import Guests, Job
from tests.vm.uml import DebugGuest
from tests.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(1200)]

FILES = ("limits", "device", "probe", "waits", "races")
JOBS = {file: Job(kernels.DEBUG, "module", f"tests/vm/inside/test_{file}.py") for file in FILES}


@pytest.fixture(scope="session")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A module with one fault for each detector."""
    folder = tmp_path_factory.mktemp("faulty") / "module"
    shutil.copytree(Path(__file__).with_name("faulty"), folder)
    build = kernels.KERNELS / kernels.DEBUG / "build"
    subprocess.run(["make", "-s", "-C", build, "ARCH=um", f"M={folder}", "modules"], check=True)
    return folder / "faulty.ko"


@pytest.mark.parametrize("kernel", [kernels.DEBUG])
def test_it_builds_without_a_warning(guests: Guests, kernel: str) -> None:
    assert guests.build(kernel) == ""


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_inside(guests: Guests, job: Job) -> None:
    guests.wait(job)


REPORTS = {
    "write": "BUG: KASAN: slab-out-of-bounds in ",
    "use": "BUG: KASAN: use-after-free in ",
    "leak": "unreferenced object ",
    "order": "WARNING: possible circular locking dependency detected",
    "context": "[ BUG: Invalid wait context ]",
    "list": " at lib/list_debug.c",
    "timer": " at lib/debugobjects.c",
}


@pytest.mark.parametrize("fault", REPORTS)
def test_a_fault_is_reported(faulty: Path, fault: str) -> None:
    """Else the silence of the tests above would mean nothing. A guest for each: after its first report a detector, or
    all of them, may be silent.
    """
    with DebugGuest(kernels.DEBUG, faulty) as guest:
        assert guest.complaints() == []
        guest.run(f"insmod /monitor.ko fault={fault}")
        assert REPORTS[fault] in "\n".join(guest.complaints())


def test_the_detectors_are_on(faulty: Path) -> None:
    with DebugGuest(kernels.DEBUG, faulty) as guest:
        guest.run(f"test -w {uml.KMEMLEAK}")
        (debug_locks,) = [line for line in guest.run("cat /proc/lockdep_stats").splitlines() if "debug_locks" in line]
        assert debug_locks.split() == ["debug_locks:", "1"]
        options = guest.run("busybox zcat /proc/config.gz").splitlines()
        wanted = Path(__file__).with_name("kernel.config").read_text().splitlines()
        assert [line for line in wanted if line.startswith("CONFIG_") and line not in options] == []


def test_nothing_is_left_of_a_guest(faulty: Path) -> None:
    """Each process in there is one of this machine, traced by the kernel's own."""
    before = set(kernel_processes())
    with DebugGuest(kernels.DEBUG, faulty) as guest:
        guest.run("sleep 1000 & sleep 1000 &")
        assert len(set(kernel_processes()) - before) > 3
    wait_until(lambda: not set(kernel_processes()) - before)


def kernel_processes() -> list[int]:
    kernel = kernels.program(kernels.DEBUG).resolve()
    found = []
    for path in Path("/proc").glob("[0-9]*/exe"):
        with contextlib.suppress(OSError):
            if path.readlink() == kernel:
                found.append(int(path.parent.name))
    return found
