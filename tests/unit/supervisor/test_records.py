"""The records outlive their supervisor; what is no database of ours is refused and left as it is."""

from __future__ import annotations

import contextlib
import sqlite3
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from wherry.errors import InternalError, InvalidRequest, NameInUse
from wherry.kernel.id_maps import IdMap
from wherry.logs import BufferStats
from wherry.supervisor.containers.record import MemoryDeath, Reason, Record, State
from wherry.supervisor.containers.request import CreateRequest, Volume
from wherry.supervisor.records import Records


def record(number: int, name: str = "") -> Record:
    request = CreateRequest(
        rootfs="/srv/caf\u00e9",
        command=("/bin/sh", "-c", "echo $0"),
        env=("A=\u20ac",),
        volumes=(Volume(source="/x", destination="/y", read_only=True),),
        tmpfs={"/tmp": "size=1m"},
        cpus=0.5,
        soft_bytes=2**62,
        labels={"a.b": ""},
    )
    return Record(id=f"{number:064x}", name=name or f"c{number}", request=request, created_ns=number)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.sqlite"


@pytest.fixture
def records(path: Path) -> Iterator[Records]:
    with contextlib.closing(Records(path)) as opened:
        yield opened


def test_a_record_comes_back_as_it_was(records: Records, path: Path) -> None:
    saved = record(1)
    saved.state, saved.reason, saved.exit_code, saved.signal = State.EXITED, Reason.SIGNALED, 137, 9
    saved.pid, saved.error, saved.slot, saved.layer, saved.stop_requested = 12, "e", "s", "l", True
    saved.started_ns, saved.finished_ns, saved.peak_memory_bytes, saved.peak_pids = 2**62, 2**62 + 1, 0, None
    records.save(saved)
    with contextlib.closing(Records(path)) as reopened:
        assert reopened.load() == [saved]


def test_every_field_is_kept(records: Records) -> None:
    """A new field of the model is a field of the records, whoever adds it."""
    values: dict[str, object] = {"state": State.RUNNING, "reason": Reason.LOST, "request": record(1).request}
    values["log_stats"] = BufferStats(*range(1, 9))
    values["memory_death"] = MemoryDeath(enforcer="bpf", pid=7, comm="hog", rss_bytes=8, death_ns=9)
    values["id_map"] = IdMap.of([[0, 1, 2]], [[0, 3, 4]])
    kinds = {"str": "text", "int": 7, "bool": True, "int | None": 8}
    annotations = {field.name: str(field.type) for field in msgspec.structs.fields(Record)}
    for field in msgspec.structs.fields(Record):
        if field.name not in values:
            name = getattr(field.type, "__name__", annotations[field.name])
            values[field.name] = kinds["int | None" if "None" in annotations[field.name] else name]
    full = Record(**values)  # type: ignore[arg-type]
    records.save(full)
    assert records.load() == [full]


def test_save_again_replaces(records: Records) -> None:
    saved = record(1)
    records.save(saved)
    saved.state = State.RUNNING
    records.save(saved)
    assert records.load() == [saved]


def test_a_name_belongs_to_one_record(records: Records) -> None:
    records.save(record(1, "alpha"))
    with pytest.raises(NameInUse, match="name in use: alpha"):
        records.save(record(2, "alpha"))
    records.save(record(3, "Alpha"))
    assert {each.id[-1] for each in records.load()} == {"1", "3"}


def test_a_deleted_record_frees_its_name(records: Records) -> None:
    records.save(record(1, "alpha"))
    records.delete(record(1))
    records.delete(record(1))
    records.save(record(2, "alpha"))
    assert [each.id for each in records.load()] == [record(2).id]


def test_settings(records: Records, path: Path) -> None:
    assert records.setting("instance", "first") == "first"
    assert records.setting("instance", "second") == "first"
    assert records.setting("other", "third") == "third"
    with contextlib.closing(Records(path)) as reopened:
        assert reopened.setting("instance", "fourth") == "first"


def test_nobody_else_can_read_them(records: Records, path: Path) -> None:
    records.save(record(1))
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_a_reader_sees_what_is_saved_at_once(records: Records, path: Path) -> None:
    """Nothing of a saved record is only in our memory: SIGKILL takes none back."""
    records.save(record(1))
    with contextlib.closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT name FROM container").fetchall() == [("c1",)]


def test_a_newer_schema_is_refused_and_kept(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version=99")
    with pytest.raises(sqlite3.DatabaseError, match="schema version 99, this supervisor knows version 1"):
        Records(path)
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (99,)


def test_what_is_no_database_is_refused_and_kept(path: Path) -> None:
    path.write_text("not a database, but somebody's file\n" * 100)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        Records(path)
    assert path.read_text().startswith("not a database")


def test_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidRequest, match=r"records: .*/records\.sqlite is a symbolic link, not a file: remove it"):
        Records(path)
    assert not (tmp_path / "elsewhere").exists()


def test_one_record_that_cannot_be_read_costs_no_other(
    records: Records, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records.save(record(1))
    records.save(record(2))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("UPDATE container SET record = ? WHERE name = 'c1'", (b'{"id": 5}',))
    assert records.load() == [record(2)]
    assert record(1).id in caplog.text


def locked(path: Path) -> sqlite3.Connection:
    """A connection that holds the write lock: nobody else can save meanwhile."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    return other


@pytest.fixture
def impatient(records: Records) -> Records:
    records._database.execute("PRAGMA busy_timeout=1")
    return records


def test_what_cannot_be_saved_is_an_error(impatient: Records, path: Path) -> None:
    with contextlib.closing(locked(path)):
        with pytest.raises(InternalError, match="cannot write the record of c1: database is locked"):
            impatient.save(record(1))
        with pytest.raises(InternalError, match="cannot delete the record of c1: database is locked"):
            impatient.delete(record(1))
        assert not impatient.has_unsaved


def test_what_has_happened_is_kept_until_it_can_be_saved(impatient: Records, path: Path) -> None:
    first, second = record(1), record(2)
    with contextlib.closing(locked(path)):
        impatient.keep(first)
        impatient.keep(second)
        impatient.retry()
        waiting = impatient.has_unsaved
    first.state = State.EXITED
    impatient.delete(second)
    impatient.retry()
    assert (waiting, impatient.has_unsaved) == (True, False)
    assert impatient.load() == [first]


def test_only_checkpoint_writes_to_the_database_itself(records: Records, path: Path) -> None:
    """Case 23: a checkpoint syncs, and belongs into a thread: the loop's own writes never begin one."""
    before = path.stat().st_size
    number = 0
    while not records.needs_checkpoint:
        records.save(record(number))
        number += 1
    assert [records.needs_checkpoint] == [False]
    assert path.stat().st_size == before
    with ThreadPoolExecutor(1) as thread:
        thread.submit(records.checkpoint).result(60)
    assert path.stat().st_size > before
    records.save(record(number))
    assert len(records.load()) == number + 1


def test_a_checkpoint_that_fails_is_no_error(records: Records, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records.save(record(1))
    (path.parent / "elsewhere").mkdir()
    path.rename(path.parent / "elsewhere/r")
    path.mkdir()
    records.checkpoint()
    assert "cannot checkpoint the records" in caplog.text
