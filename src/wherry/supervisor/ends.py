"""How removed containers ended: remembered for a while, for whoever asks later than the removal.

A container that is removed when it ends leaves nothing, and ``wait`` may come a moment too late, or after the
supervisor was replaced. An end is written in the transaction that deletes the record, so that one of the two is always
there. The last MOST are kept, for KEPT_SECONDS; environments and commands are not among it.
"""

from __future__ import annotations

import sqlite3
import time

import msgspec

from wherry.errors import Conflict, InternalError, NotFound
from wherry.supervisor.containers.record import End

MOST = 10_000
KEPT_SECONDS = 7 * 24 * 3600
_PRUNED_EVERY = 256
_SCHEMA = """
CREATE TABLE IF NOT EXISTS ended (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL, finished_ns INTEGER NOT NULL,
    ending BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS ended_name ON ended (name);
"""
_PRUNE = "DELETE FROM ended WHERE number <= (SELECT max(number) FROM ended) - ? OR finished_ns < ?"
_FIND = "SELECT ending FROM ended WHERE finished_ns >= ? AND "


class Ends:
    """In the records' database, whose errors (sqlite3.Error) ``add`` passes on."""

    def __init__(self, database: sqlite3.Connection, most: int = MOST) -> None:
        self._database = database
        self._most = most
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(End)
        self._added = 0
        database.executescript(_SCHEMA)
        self._prune()

    def add(self, end: End) -> None:
        """As part of the caller's transaction."""
        values = (end.id, end.name, end.finished_ns, self._encoder.encode(end))
        self._database.execute(
            "INSERT OR REPLACE INTO ended (id, name, finished_ns, ending) VALUES (?, ?, ?, ?)", values
        )
        self._added += 1
        if self._added % _PRUNED_EVERY == 0:
            self._prune()

    def find(self, ref: str) -> End:
        """By id, by name (the last that had it), or by a prefix of an id.

        Raises NotFound, Conflict for a prefix of several ids, InternalError when the database cannot be read.
        """
        try:
            found = self._matching(ref)
        except sqlite3.Error as error:
            raise InternalError(f"cannot read how {ref} ended: {error}") from error
        if not found:
            raise NotFound(f"no such container: {ref}")
        if len(found) > 1:
            raise Conflict(f"the id {ref} is ambiguous: several removed containers begin with it")
        return found[0]

    def _matching(self, ref: str) -> list[End]:
        found = self._select("id = ?", ref) or self._select("name = ? ORDER BY number DESC LIMIT 1", ref)
        if not found and ref and set(ref) <= set("0123456789abcdef"):
            found = self._select("id >= ? AND id < ? LIMIT 2", ref, ref + "g")
        return found

    def _select(self, condition: str, *values: str) -> list[End]:
        rows = self._database.execute(_FIND + condition, (_oldest_ns(), *values)).fetchall()
        return [self._decoder.decode(blob) for (blob,) in rows]

    def _prune(self) -> None:
        self._database.execute(_PRUNE, (self._most, _oldest_ns()))


def _oldest_ns() -> int:
    return time.time_ns() - KEPT_SECONDS * 1_000_000_000
