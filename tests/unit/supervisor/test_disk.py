"""What is measured of the disk, and of whom."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from wherry.storage.rootfs import RootfsStore
from wherry.supervisor.containers.container import Container
from wherry.supervisor.disk import Disk
from wherry.supervisor.state_directory import StateDirectory


class Store:
    """Of archives; counts how often it has to look at them."""

    def __init__(self) -> None:
        self.measured = 0

    def measure(self) -> None:
        self.measured += 1

    def archives(self) -> list[Any]:
        return []

    def space(self) -> None: ...


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    for name in ("logs", "layers"):
        (tmp_path / name).mkdir()
    return cast(StateDirectory, SimpleNamespace(logs=tmp_path / "logs", layers=tmp_path / "layers"))


def containers(*names: str) -> dict[str, Container]:
    records = (SimpleNamespace(id=name, name=name, layer="", log_path=f"/{name}.log") for name in names)
    return {record.id: cast(Container, SimpleNamespace(record=record)) for record in records}


def disk(state: StateDirectory, store: Store, table: dict[str, Container]) -> Disk:
    async def remove(_: str) -> None: ...

    return Disk(state, cast(RootfsStore, store), table, remove)


def test_a_container_that_is_removed_meanwhile_is_left_out(state: StateDirectory) -> None:
    table = containers("stays", "goes")

    made = disk(state, Store(), table)
    measure = made._measure

    def removing(records: Any) -> Any:
        found = measure(records)
        del table["goes"]
        return found

    made._measure = removing  # type: ignore[method-assign]
    usage = asyncio.run(made.usage())
    assert [each.record.id for each in usage.containers] == ["stays"]


@pytest.mark.parametrize(("archives", "with_containers"), [(True, False), (False, True), (False, False)])
def test_what_nobody_asks_for_is_not_measured(state: StateDirectory, archives: bool, with_containers: bool) -> None:
    store = Store()
    usage = asyncio.run(disk(state, store, containers("a")).usage(archives=archives, containers=with_containers))
    assert (store.measured, len(usage.containers)) == (archives, with_containers)
