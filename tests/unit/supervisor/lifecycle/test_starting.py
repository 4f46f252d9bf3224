"""Parts of a start that need no container."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from wherry.logs import Log, make_pipe
from wherry.supervisor.containers.container import Container
from wherry.supervisor.containers.request import CreateRequest
from wherry.supervisor.lifecycle import starting


@pytest.mark.parametrize("failing", [1, 2])
def test_a_pipe_that_cannot_be_made_leaves_no_descriptor(
    failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def make() -> tuple[int, int]:
        calls.append(1)
        if len(calls) == failing:
            raise OSError(errno.EMFILE, "Too many open files")
        return make_pipe()

    monkeypatch.setattr(starting, "make_pipe", make)
    record = SimpleNamespace(request=CreateRequest(rootfs="/", command=("true",)))
    container = cast(Container, SimpleNamespace(log=Log(tmp_path / "alpha.log", "ab" * 32), record=record))
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="Too many open files"), ExitStack() as used, ExitStack() as unread:
        starting.Starter._connect_output(cast(Any, None), container, used, unread)
    assert os.listdir("/proc/self/fd") == before
