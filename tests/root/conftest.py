"""A supervisor of its own for each test, and the proof that nothing of it is left on the machine afterwards."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.root.harness import REPOSITORY, Supervisor, Traces
from tests.root.patched import Patched, Weaken
from tests.waiting import wait_until


@pytest.fixture(scope="session")
def rootfs() -> Path:
    """build/rootfs, made if need be. Not to be written to: containers run on layers over it."""
    path = REPOSITORY / "build/rootfs"
    if not path.is_dir():
        subprocess.run(["make", "build/stamps/rootfs"], cwd=REPOSITORY, check=True, timeout=600)
    return path


@contextlib.contextmanager
def traces_of(directory: Path) -> Iterator[Traces]:
    traces = Traces(directory)
    assert traces.find() == []
    yield traces
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not traces.find())
    found = traces.find()
    traces.clear()
    assert found == []


@pytest.fixture
def leftovers(tmp_path: Path) -> Iterator[Traces]:
    """After the test there must be no process, mount, control group or socket of it, when the kernel has cleaned up."""
    with traces_of(tmp_path) as traces:
        yield traces


@pytest.fixture
def supervisor(tmp_path: Path, rootfs: Path, leftovers: Traces) -> Iterator[Supervisor]:
    """Ready to serve; stopped by SIGTERM after the test, where it must exit with 0 and leave nothing."""
    with Supervisor(tmp_path, rootfs, leftovers).serving() as instance:
        yield instance


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory, rootfs: Path) -> Iterator[Supervisor]:
    """The one behind ``shared``."""
    directory = tmp_path_factory.mktemp("shared")
    with traces_of(directory) as traces, Supervisor(directory, rootfs, traces).serving() as instance:
        yield instance


@pytest.fixture
def shared(lasting: Supervisor) -> Iterator[Supervisor]:
    """A supervisor for all tests of a file that need none of their own: a start takes longer than most of them.

    Each finds it without containers, and after each there must be nothing but what it keeps prepared.
    """
    yield lasting
    for entry in lasting.client.ps():
        lasting.client.rm(entry.id, force=True)
    found: list[str] = []

    def is_clean() -> bool:  # while others are prepared for the last template, there is one too many now and then
        found[:] = lasting.remains()
        return not found

    with contextlib.suppress(AssertionError):
        wait_until(is_clean)
    assert found == []


@pytest.fixture
def huge_pages() -> Iterator[None]:
    """The machine's pool of huge pages may grow by 128 MiB for as long as the test lasts."""
    path = Path("/proc/sys/vm/nr_overcommit_hugepages")
    before = path.read_text()
    path.write_text(str(int(before) + 64))
    yield
    path.write_text(before)


@pytest.fixture
def swap() -> Iterator[None]:
    """A swap device in compressed memory, for as long as the test lasts; nothing else goes there unless the machine
    runs out of memory.
    """
    control = Path("/sys/class/zram-control")
    if not control.exists():
        pytest.skip("this kernel has no zram to swap to")
    number = (control / "hot_add").read_text().strip()
    device = f"/dev/zram{number}"
    with contextlib.ExitStack() as undo:
        undo.callback((control / "hot_remove").write_text, number)
        Path(f"/sys/block/zram{number}/disksize").write_text("256M")
        wait_until(Path(device).exists)
        subprocess.run(["mkswap", device], check=True, capture_output=True)
        subprocess.run(["swapon", "--priority", "0", device], check=True)
        undo.callback(subprocess.run, ["swapoff", device], check=True)
        yield


@pytest.fixture
def weaken(tmp_path: Path, rootfs: Path, leftovers: Traces) -> Weaken:
    """A supervisor that executes this code first."""

    def weaken(prelude: str) -> contextlib.AbstractContextManager[Supervisor]:
        instance = Patched(tmp_path, rootfs, leftovers)
        instance.prelude = prelude
        return instance.serving()

    return weaken
