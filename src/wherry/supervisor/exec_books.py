"""What is known of execs, in the records' database: written before one is started and when it has ended, so that the
next supervisor knows whose a process in the shim is, and how those ended that somebody may still ask for.
"""

from __future__ import annotations

import logging
import sqlite3

import msgspec

from wherry.errors import InternalError
from wherry.supervisor.containers.execution import ExecRecord

_log = logging.getLogger(__name__)
_SCHEMA = "CREATE TABLE IF NOT EXISTS exec (id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID"


class ExecBooks:
    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(ExecRecord)
        database.execute(_SCHEMA)

    def load(self) -> list[ExecRecord]:
        """All, the oldest first; one that cannot be read is logged and taken out."""
        found = []
        for identity, blob in self._database.execute("SELECT id, record FROM exec").fetchall():
            try:
                found.append(self._decoder.decode(blob))
            except msgspec.MsgspecError:
                _log.exception("the record of exec %s cannot be read", identity)
                self.forget([identity])
        return sorted(found, key=lambda record: record.created_ns)

    def save(self, record: ExecRecord) -> None:
        """Raises InternalError."""
        try:
            values = (record.id, self._encoder.encode(record))
            self._database.execute("INSERT OR REPLACE INTO exec VALUES (?, ?)", values)
        except sqlite3.Error as error:
            raise InternalError(f"cannot write the record of an exec: {error}") from error

    def keep(self, record: ExecRecord) -> None:
        """Save what has happened. When that fails the next supervisor will not know how it ended."""
        try:
            self.save(record)
        except InternalError as error:
            _log.error("%s", error)

    def forget(self, ids: list[str]) -> None:
        try:
            self._database.executemany("DELETE FROM exec WHERE id = ?", [(each,) for each in ids])
        except sqlite3.Error as error:
            _log.error("cannot delete records of execs: %s", error)
