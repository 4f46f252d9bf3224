"""The file of events: whole lines, bounded size, and no harm from what is wrong in it."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from pathlib import Path

import pytest

from wherry.errors import InvalidRequest
from wherry.supervisor import event_log
from wherry.supervisor.containers.record import Record
from wherry.supervisor.containers.request import CreateRequest
from wherry.supervisor.event_log import EventLog
from wherry.supervisor.events import Action, Event, Events


def record(**labels: str) -> Record:
    request = CreateRequest(rootfs="/r", command=("/bin/true",), labels=labels)
    return Record(id="ab" * 32, name="alpha", request=request, created_ns=1)


def told(path: Path, *numbers: int, most_bytes: int = event_log.FILE_MAX, **labels: str) -> list[Event]:
    """Emit events into the file, as one supervisor would; returns what its own history has."""

    async def work() -> list[Event]:
        log, events = EventLog(path, most_bytes), Events()
        events.restore(log.load())
        events.keep = log.keep
        for number in numbers:
            events.emit(Action.DIE, record(**labels), {"n": str(number)})
            if number % 3 == 0:
                await asyncio.sleep(0)
        log.close()
        return list(events.past())

    return asyncio.run(work())


def read(path: Path) -> list[Event]:
    return list(EventLog(path).load())


def test_events_come_back_as_they_were(tmp_path: Path) -> None:
    """Case 6."""
    path = tmp_path / "events"
    first = told(path, *range(10), a="b", image="not this")
    assert read(path) == first
    assert [event.attributes["n"] for event in told(path, 10)] == [str(number) for number in range(11)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_turn_of_the_loop_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 6: the start path does not pay for each event."""
    writes: list[bytes] = []
    plain = os.write

    def write(descriptor: int, data: bytes) -> int:
        writes.append(data)
        return plain(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    told(tmp_path / "events", 1, 2, 4, 5)
    assert len(writes) == 1
    assert writes[0].count(b"\n") == 4


def test_what_somebody_was_told_is_in_the_file_before(tmp_path: Path) -> None:
    """Case 6: whoever waits for an event runs after the write of it."""

    async def work() -> None:
        log, events = EventLog(tmp_path / "events"), Events()
        events.keep = log.keep
        following = events.follow(history=False)
        waiting = asyncio.ensure_future(anext(following))
        await asyncio.sleep(0)
        events.emit(Action.DIE, record())
        event = await waiting
        assert [each.action for each in read(tmp_path / "events")] == [event.action]  # type: ignore[union-attr]
        log.close()

    asyncio.run(work())


def test_the_file_is_bounded(tmp_path: Path) -> None:
    """Case 6: the newest events are kept, in two files of a bounded size."""
    path = tmp_path / "events"
    told(path, *range(3000), most_bytes=20_000)
    sizes = [each.stat().st_size for each in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) < 21_000
    numbers = [int(event.attributes["n"]) for event in read(path)]
    assert numbers == list(range(numbers[0], 3000))
    assert len(numbers) > 100


def test_an_event_with_huge_labels_is_kept_without_them(tmp_path: Path) -> None:
    """Case 6: labels of megabytes on each event would make the file useless."""
    told(tmp_path / "events", 1, big="x" * 1_000_000)
    (event,) = read(tmp_path / "events")
    assert (event.labels, event.attributes) == ({}, {"n": "1", "image": "/r", "name": "alpha"})


@pytest.mark.parametrize(
    "junk",
    [b"", b"x", b'["die"', b"[]\n", b"\xff\xfe\n", b'["nova","i","n","/r",1,1,{},{}]\n', b"[" * 100_000, b"\0" * 100],
)
def test_what_is_no_event_is_left_out(tmp_path: Path, junk: bytes) -> None:
    """Case 6: half a line is what a supervisor leaves that was killed in a write to a full disk."""
    path = tmp_path / "events"
    told(path, 1)
    with path.open("ab") as file:
        file.write(junk)
    told(path, 2)
    assert [event.attributes["n"] for event in read(path)] == ["1", "2"]


def test_old_events_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 6: bounded by age."""
    told(tmp_path / "events", 1)
    later = time.time_ns() + event_log.KEPT_SECONDS * 10**9 + 1
    monkeypatch.setattr(time, "time_ns", lambda: later)
    assert read(tmp_path / "events") == []


def test_a_full_disk_costs_nothing_but_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Case 6."""
    plain = os.write

    def full(descriptor: int, data: bytes) -> int:
        if b'"2"' in data or b'"3"' in data:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    kept = told(tmp_path / "events", 0, 3, 6)
    assert [event.attributes["n"] for event in kept] == ["0", "3", "6"]
    assert [event.attributes["n"] for event in read(tmp_path / "events")] == ["0", "6"]
    assert caplog.text.count("No space left") == 1


@pytest.mark.parametrize("name", ["events", "events.1"])
def test_a_link_is_not_followed(tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidRequest, match=f"events: .*{name} is a symbolic link"):
        read(tmp_path / "events")
