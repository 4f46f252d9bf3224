"""A client's input on its way to a container: on a connection that is upgraded (``Upgrade: tcp``), as docker's."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from wherry.api.http.connection import Connection
from wherry.api.http.input import Input
from wherry.api.http.router import Call
from wherry.errors import InvalidRequest

if TYPE_CHECKING:
    from wherry.supervisor.containers.stdin import Stdin


def is_upgrade(call: Call) -> bool:
    return call.request.headers.get("Upgrade", "").lower() == "tcp"


def require_upgrade(call: Call) -> None:
    """Raises InvalidRequest: more input would be taken for the next request."""
    if not is_upgrade(call):
        raise InvalidRequest("stdin needs a connection of its own: send the headers Connection: Upgrade, Upgrade: tcp")


def input_of(call: Call) -> Input:
    """From now on; raises InvalidRequest for a connection that is not upgraded."""
    require_upgrade(call)
    return cast(Connection, call.request.protocol).hands_on_input()


def feed(call: Call, container_id: str, source: Input | None) -> None:
    """What comes from ``source``, to the container's standard input."""
    if source is None:
        return
    feed_into(call.engine.stdin(container_id), source)


def feed_into(stdin: Stdin | None, source: Input) -> None:
    if stdin is None:  # it has ended meanwhile
        source.refuse()
    else:
        stdin.feed(source)
