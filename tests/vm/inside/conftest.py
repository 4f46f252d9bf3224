"""The module is loaded once for a file of tests; at its end nothing of it may be left, and the kernel must not have
complained.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.vm.inside import watched
from tests.waiting import wait_until

from wherry.kernel.container_monitor import Monitor


@pytest.fixture(scope="module", autouse=True)
def clean_kernel() -> Iterator[None]:
    yield
    wait_until(lambda: not watched.allocations())  # kvfree_rcu() frees in batches, up to 5 s late
    assert watched.complaints(watched.kernel_log()) == []


@pytest.fixture(scope="module")
def module(clean_kernel: None) -> Iterator[None]:  # noqa: ARG001  # after which it looks
    with watched.loaded():
        yield


@pytest.fixture
def monitor(module: None) -> Iterator[Monitor]:  # noqa: ARG001  # the device is the module's
    opened = Monitor.open()
    try:
        yield opened
    finally:
        opened.close()
