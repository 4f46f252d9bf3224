"""A shim, and the proof that it goes without a word."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.patience import PATIENCE
from tests.root.harness import Traces
from tests.root.shim.shim_process import ShimProcess


@pytest.fixture
def shim(tmp_path: Path, leftovers: Traces) -> Iterator[ShimProcess]:
    """Told to shut down at the end, if it still runs; then it must exit with 0 and without a word."""
    made = ShimProcess(tmp_path)
    leftovers.shims.add(made.process.pid)
    try:
        yield made
        with contextlib.suppress(ConnectionError), made.connect() as connection:  # it may have gone by itself
            connection.send(type="shutdown")
            while not connection.is_closed():
                pass
        assert made.process.wait(PATIENCE) == 0
    finally:
        made.process.kill()
        made.process.wait()
    assert made.log.read_text() == ""
