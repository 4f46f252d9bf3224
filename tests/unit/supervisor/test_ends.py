"""The memory of ends: bounded by number and age, written with the deletion of the record or not at all."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wherry.errors import Conflict, InternalError, NotFound
from wherry.supervisor import ends
from wherry.supervisor.containers.record import End, Reason, Record, State
from wherry.supervisor.containers.request import CreateRequest
from wherry.supervisor.ends import Ends
from wherry.supervisor.records import Records


def end(number: int, name: str = "job", finished_ns: int | None = None) -> End:
    finished = time.time_ns() if finished_ns is None else finished_ns
    return End(
        id=f"{number:064x}",
        name=name,
        reason=Reason.EXITED,
        exit_code=number,
        signal=None,
        error="",
        started_ns=1,
        finished_ns=finished,
    )


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as opened:
        yield opened


def test_the_oldest_ends_are_forgotten(database: sqlite3.Connection) -> None:
    """Case 6: bounded by number."""
    known = Ends(database, most=300)
    for number in range(1000):
        known.add(end(number))
    (count,) = database.execute("SELECT count(*) FROM ended").fetchone()
    assert 300 <= count < 300 + 256
    assert known.find(f"{999:064x}").exit_code == known.find("job").exit_code == 999
    with pytest.raises(NotFound):
        known.find(f"{5:064x}")
    assert ends.MOST == 10_000


def test_old_ends_are_forgotten(database: sqlite3.Connection) -> None:
    """Case 6: and by age."""
    known = Ends(database)
    known.add(end(1, "old", time.time_ns() - ends.KEPT_SECONDS * 10**9 - 1))
    with pytest.raises(NotFound):
        known.find("old")
    Ends(database)
    assert database.execute("SELECT count(*) FROM ended").fetchone() == (0,)


def test_by_id_then_name_then_prefix(database: sqlite3.Connection) -> None:
    known = Ends(database)
    for number, name in ((0xA1 << 248, "first"), (0xA2 << 248, "second"), (3, "a1")):
        known.add(end(number, name))
    assert known.find("a1").name == "a1"
    assert known.find("a10").name == "first"
    with pytest.raises(Conflict, match="ambiguous"):
        known.find("a")
    for nobody in ("", "g", "%", "a_", "' OR 1=1 --", "A1", "f" * 100):
        with pytest.raises(NotFound):
            known.find(nobody)


def ended_record() -> Record:
    record = Record(id="ab" * 32, name="job", request=CreateRequest(rootfs="/r", command=("x",)), created_ns=1)
    record.state, record.reason, record.exit_code = State.EXITED, Reason.EXITED, 3
    record.started_ns, record.finished_ns = time.time_ns(), time.time_ns()
    return record


def test_a_record_gives_way_to_its_end_at_once_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 6: a supervisor that is killed in between leaves one of the two."""
    path = tmp_path / "records.sqlite"
    with contextlib.closing(Records(path)) as records:
        record = ended_record()
        records.save(record)
        with monkeypatch.context() as patched:
            patched.setattr(Ends, "add", lambda *_: records._database.execute("no SQL"))
            with pytest.raises(InternalError, match="cannot delete the record of job"):
                records.retire(record)
        assert records.load() == [record]
        records.retire(record)
        assert records.load() == []
    with contextlib.closing(Records(path)) as reopened:
        assert reopened.ends.find("job") == End.of(record)


def test_what_never_ended_has_no_end(tmp_path: Path) -> None:
    with contextlib.closing(Records(tmp_path / "records.sqlite")) as records:
        fresh = ended_record()
        fresh.finished_ns = 0
        records.save(fresh)
        records.retire(fresh)
        assert records.load() == []
        with pytest.raises(NotFound):
            records.ends.find("job")
