"""The Python API: containers of the supervisor behind one UNIX socket.

    client = Client()                                  # ENGINE_SOCKET, or /run/wherry/engine.sock
    started = client.start("job", "rootfs", ["/bin/sleep", "60"], hard_mib=64)
    for stream, data in client.logs("job", follow=True):
        ...

Every method raises the errors of ``wherry.errors`` as the supervisor sent them (NotFound, NameInUse, CommandNotFound
...), Unavailable when no supervisor answers or it goes away in the middle, and InternalError for a reply that makes
no sense.

Threads may share a Client: each call in flight has a connection of its own, and idle connections are kept and reused. A
LogStream belongs to one thread at a time. After fork() both processes can go on using it.

Plain classes and no dataclasses, because the command line pays for every import (see ``http1``).

    client      what can be asked for, ``disk`` what concerns disk space
    transport   requests and replies, over ``http1``
    arguments   what callers pass, checked; ``config`` makes the body of POST /wherry/run of it, ``queries`` the rest
    replies     the API's JSON -> objects; ``stream`` docker's raw-stream format; ``events``, ``callbacks``
    jsontext    JSON without the package json
"""

from wherry.client.client import Client
from wherry.client.config import MAX_MIB, absolute
from wherry.client.replies import Container, ProcessTable, RunResult, StartedContainer
from wherry.client.stream import STDERR, STDOUT, LogStream
from wherry.client.transport import socket_path

__all__ = [
    "MAX_MIB",
    "STDERR",
    "STDOUT",
    "Client",
    "Container",
    "LogStream",
    "ProcessTable",
    "RunResult",
    "StartedContainer",
    "absolute",
    "socket_path",
]
