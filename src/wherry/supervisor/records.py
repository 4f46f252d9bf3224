"""The records of all containers, in one SQLite file.

A record is kept whole, as JSON, beside the columns it is looked up by: the model is the schema. Write-ahead logging
with ``synchronous=NORMAL``: a commit costs no fsync and survives the death of the supervisor at any instant; a power
failure may take the last commits, after which the containers they spoke of are gone anyway.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from pathlib import Path

import msgspec

from wherry.errors import InternalError, InvalidRequest, NameInUse
from wherry.kernel import trust
from wherry.supervisor.containers.record import End, Record
from wherry.supervisor.ends import Ends

_log = logging.getLogger(__name__)
SCHEMA_VERSION = 1
_PAGE_SIZE = 4096
_CHECKPOINT_BYTES = 8 << 20
_SCHEMA = """
CREATE TABLE container (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


_SAVE = """
INSERT INTO container VALUES (?, ?, ?)
ON CONFLICT (id) DO UPDATE SET name = excluded.name, record = excluded.record
"""


class Records:
    """Not thread-safe: the supervisor's loop is the only user."""

    def __init__(self, path: Path) -> None:
        """Open or create; ``path`` is in a directory that nobody else can write to.

        Raises sqlite3.Error (not a database, disk full), InvalidRequest when one of its files is a link or another's,
        OSError.
        """
        try:
            # SQLite opens by name, and follows links.
            for suffix in ("-wal", "-shm", "-journal"):
                trust.check_if_there(f"{path}{suffix}")
            # An environment may hold secrets; SQLite gives its other files the mode of this one.
            os.close(trust.open_file(str(path), os.O_RDWR | os.O_CREAT))
        except trust.DistrustedError as error:
            raise InvalidRequest(f"records: {error}") from None
        self._database = sqlite3.connect(path, isolation_level=None)
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(Record)
        self.has_unreadable = False
        self._unsaved: dict[str, Record] = {}
        self._path = path
        self._written = 0
        try:
            self._prepare()
            self.ends = Ends(self._database)
        except BaseException:
            self._database.close()
            raise

    def _prepare(self) -> None:
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        # A checkpoint syncs, which beside a container that fills the disk takes seconds: see ``checkpoint``.
        self._database.execute("PRAGMA wal_autocheckpoint=0")
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._database.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
        elif version != SCHEMA_VERSION:
            text = f"records of schema version {version}, this supervisor knows version {SCHEMA_VERSION}"
            raise sqlite3.DatabaseError(text)

    def load(self) -> list[Record]:
        """All records, in no particular order; one that cannot be read is logged and left where it is."""
        found = []
        for identity, blob in self._database.execute("SELECT id, record FROM container"):
            try:
                found.append(self._decoder.decode(blob))
            except msgspec.MsgspecError:
                _log.exception("the record of container %s cannot be read", identity)
                self.has_unreadable = True
        return found

    def save(self, record: Record) -> None:
        """Insert or replace.

        Raises NameInUse when the name is another record's, InternalError when it cannot be written.
        """
        try:
            encoded = self._encoder.encode(record)
            self._written += len(encoded) + _PAGE_SIZE
            self._execute(_SAVE, (record.id, record.name, encoded))
        except sqlite3.IntegrityError:
            raise NameInUse(f"name in use: {record.name}") from None
        except sqlite3.Error as error:
            raise InternalError(f"cannot write the record of {record.name}: {error}") from error
        self._unsaved.pop(record.id, None)

    def keep(self, record: Record) -> None:
        """Save something that has happened, whether or not it can be written now: ``retry`` tries again."""
        try:
            self.save(record)
        except InternalError as error:
            _log.error("%s; trying again", error)
            self._unsaved[record.id] = record

    @property
    def has_unsaved(self) -> bool:
        return bool(self._unsaved)

    def retry(self) -> None:
        """Save what could not be saved, as far as that is possible now."""
        for record in list(self._unsaved.values()):
            try:
                self.save(record)
            except InternalError:
                return

    @property
    def needs_checkpoint(self) -> bool:
        """Whether ``checkpoint`` is due; true once for each time."""
        if self._written < _CHECKPOINT_BYTES:
            return False
        self._written = 0
        return True

    def checkpoint(self) -> None:
        """Move what has been committed from the write-ahead log into the database; in a thread, beside the loop's
        writes, which a passive checkpoint does not keep waiting (sqlite.org, "Write-Ahead Logging").
        """
        try:
            with contextlib.closing(sqlite3.connect(self._path, isolation_level=None)) as database:
                database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            _log.error("cannot checkpoint the records: %s", error)

    def delete(self, record: Record) -> None:
        """Raises InternalError when that cannot be written."""
        self._unsaved.pop(record.id, None)
        try:
            self._execute("DELETE FROM container WHERE id = ?", (record.id,))
        except sqlite3.Error as error:
            raise InternalError(f"cannot delete the record of {record.name}: {error}") from error

    def retire(self, record: Record) -> None:
        """Delete a record, and remember how its container ended if it ever ran: both or nothing.

        Raises InternalError when that cannot be written.
        """
        if not record.finished_ns:
            self.delete(record)
            return
        self._written += 3 * _PAGE_SIZE  # a row in a table and two indices
        try:
            self._execute("BEGIN", ())
            try:
                self.delete(record)
                self.ends.add(End.of(record))
                self._execute("COMMIT", ())
            except BaseException:
                self._database.rollback()
                raise
        except sqlite3.Error as error:
            raise InternalError(f"cannot delete the record of {record.name}: {error}") from error

    def _execute(self, statement: str, parameters: tuple[object, ...]) -> None:
        self._database.execute(statement, parameters)

    def setting(self, key: str, default: str) -> str:
        """A value that lives as long as the state directory; ``default`` is stored when there is none yet."""
        self._database.execute("INSERT OR IGNORE INTO setting VALUES (?, ?)", (key, default))
        (value,) = self._database.execute("SELECT value FROM setting WHERE key = ?", (key,)).fetchone()
        return str(value)

    def close(self) -> None:
        self._database.close()
