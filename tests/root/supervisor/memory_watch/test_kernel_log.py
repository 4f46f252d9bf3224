"""Case 29: the kernel's log has a line for each limit that a container crosses, whoever enforces it."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.root.harness import Supervisor, Traces
from tests.root.supervisor.containers.test_causes import ENFORCERS
from tests.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]


class Reader:
    """What is written to the kernel's log from now on: Documentation/ABI/testing/dev-kmsg."""

    def __init__(self) -> None:
        self._descriptor = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self._descriptor, 0, os.SEEK_END)
        self._lines: list[str] = []

    def lines(self, name: str) -> list[str]:
        """Those that ``grep`` finds."""
        while True:
            try:
                record = os.read(self._descriptor, 8192).decode()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.EPIPE:  # records were overwritten before they were read
                    raise
                continue
            self._lines.append(record.partition(";")[2].partition("\n")[0])
        return [line for line in self._lines if name in line]

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.fixture
def reader() -> Iterator[Reader]:
    try:
        instance = Reader()
    except OSError as error:
        pytest.skip(f"/dev/kmsg cannot be read: {error}")
    yield instance
    instance.close()


@pytest.fixture(params=ENFORCERS)
def limited(request: pytest.FixtureRequest, tmp_path: Path, rootfs: Path, leftovers: Traces) -> Iterator[Supervisor]:
    with Supervisor(tmp_path, rootfs, leftovers, "--memory-enforcer", request.param).serving() as instance:
        yield instance


def test_one_line_for_each_limit(limited: Supervisor, rootfs: Path, reader: Reader) -> None:
    """Also of the module, which tells by itself: not twice."""
    name = f"hog-{os.getpid()}_{limited.info()['enforcer']}"
    options = {"soft_mib": 32, "hard_mib": 64}
    result = limited.client.run(name, str(rootfs), ["/memory_hog", "1", "0", "99"], **options)  # type: ignore[arg-type]
    assert result.reason == "hard_limit"
    wait_until(lambda: len(reader.lines(name)) >= 2)
    limited.stop()  # whatever it had to write is written
    soft, hard = reader.lines(name)
    pattern = r"(wherry|container_monitor): {} LIMIT id={} pid=[1-9][0-9]* rss=([0-9]+) limit={}"
    for line, word, limit in ((soft, "SOFT", 32 << 20), (hard, "HARD", 64 << 20)):
        match = re.fullmatch(pattern.format(word, name, limit), line)
        assert match is not None, line
        assert int(match[2]) >= limit
    limited.restart()
