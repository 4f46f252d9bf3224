"""Parts of a start that need no container."""

from __future__ import annotations

import asyncio
import errno
import os
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from wherry.errors import InvalidRequest
from wherry.kernel.id_maps import IdMap
from wherry.logs import Log, make_pipe
from wherry.supervisor.containers import states
from wherry.supervisor.containers.container import Container
from wherry.supervisor.containers.record import Record
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


def test_what_cannot_be_prepared_ahead_is_nobodys_error(caplog: pytest.LogCaptureFixture) -> None:
    """It is asked for after each start and each end, of whatever container."""

    def reserve(*_: object) -> None:
        raise InvalidRequest("uid mappings: id 5 stands in two lines")

    fields = {"_refill_timer": None, "_template": "[]", "_last": None, "_id_ranges": SimpleNamespace(reserve=reserve)}
    starting.Starter.refill(cast(Any, SimpleNamespace(**fields, _children=SimpleNamespace(spare_count=2))))
    assert "cannot prepare a container ahead: uid mappings" in caplog.text


def test_ids_of_a_failed_start_are_given_back_when_its_process_has_gone() -> None:
    async def check() -> None:
        child, gone = object(), asyncio.Event()
        kept: list[Record] = []
        id_map = IdMap.of([[0, 100000, 65536]], [[0, 100000, 65536]])
        record = Record(id="1", name="one", request=CreateRequest(rootfs="/", command=("true",)), created_ns=0)
        container = cast(Container, SimpleNamespace(record=record, removed=asyncio.Event()))

        def ids() -> IdMap | None:
            return record.id_map

        clearing = asyncio.create_task(gone.wait())
        starter = SimpleNamespace(
            _children=SimpleNamespace(lingering={child: clearing}), _records=SimpleNamespace(keep=kept.append)
        )
        starter._give_ids_back_late = lambda given: starting.Starter._give_ids_back_late(cast(Any, starter), given)
        states.took_ids(record, id_map)
        starting.Starter._give_ids_back(cast(Any, starter), container, [cast(Any, child)])
        assert ids() == id_map
        gone.set()
        await clearing
        await asyncio.sleep(0)
        assert kept == [record]
        assert ids() is None
        states.took_ids(record, id_map)
        starting.Starter._give_ids_back(cast(Any, starter), container, [])
        assert ids() is None

    asyncio.run(check())
