"""A command line, run in this process against a scripted supervisor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.fake_supervisor import FakeSupervisor

from wherry.cli import main


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSupervisor]:
    with FakeSupervisor(tmp_path / "s") as supervisor:
        monkeypatch.setenv("ENGINE_SOCKET", str(supervisor.path))
        yield supervisor


@pytest.fixture
def engine(capfd: pytest.CaptureFixture[str]) -> Engine:
    return Engine(capfd)


class Engine:
    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, *words: str) -> tuple[int, str, str]:
        code = main.main(words)
        return code, *self._capture.readouterr()
