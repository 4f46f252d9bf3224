"""A client of a scripted supervisor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.patience import PATIENCE
from tests.unit.fake_supervisor import FakeSupervisor

from wherry import Client


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeSupervisor]:
    with FakeSupervisor(tmp_path / "s") as supervisor:
        yield supervisor


@pytest.fixture
def client(fake: FakeSupervisor) -> Iterator[Client]:
    with Client(str(fake.path), timeout=PATIENCE) as client:
        yield client
