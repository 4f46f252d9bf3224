"""The API server: binds the socket, serves until it is closed, leaves nothing behind."""

from __future__ import annotations

import asyncio

from wherry.api import refusals
from wherry.api.handlers import (
    absent,
    attach,
    containers,
    disk,
    events,
    images,
    log_streams,
    networks,
    processes,
    stats,
    system,
    updates,
)
from wherry.api.http import unix_socket
from wherry.api.http.connection import HttpServer
from wherry.api.http.lifetime import Lifetime
from wherry.api.http.peers import Peers
from wherry.api.http.replies import Replies
from wherry.api.http.router import Router, Routes
from wherry.api.needs import Engine

ROUTES: Routes = {
    ("_ping",): {"GET": system.ping, "HEAD": system.ping},
    ("version",): {"GET": system.version},
    ("info",): {"GET": system.info},
    ("events",): {"GET": events.stream},
    ("system", "df"): {"GET": disk.usage},
    ("wherry", "run"): {"POST": log_streams.run},
    ("wherry", "start"): {"POST": containers.start_again},
    ("images", "json"): {"GET": images.list_all},
    ("images", "*", "json"): {"GET": images.inspect},
    ("wherry", "stats"): {"GET": stats.of_many},
    ("containers", "json"): {"GET": containers.list_all},
    ("containers", "create"): {"POST": containers.create},
    ("containers", "prune"): {"POST": disk.prune_containers},
    ("images", "prune"): {"POST": disk.prune_archives},
    ("networks", "prune"): {"POST": disk.prune_networks},
    ("volumes", "prune"): {"POST": disk.prune_volumes},
    ("build", "prune"): {"POST": disk.prune_builds},
    ("networks",): {"GET": networks.list_all},
    ("networks", "*"): {"GET": networks.inspect, "DELETE": networks.remove},
    ("volumes",): {"GET": absent.volumes},
    ("volumes", "*"): {"GET": absent.volume, "DELETE": absent.remove_volume},
    ("plugins",): {"GET": absent.plugins},
    ("plugins", "*", "json"): {"GET": absent.plugin},
    ("plugins", "*"): {"DELETE": absent.plugin},
    ("plugins", "*", "enable"): {"POST": absent.plugin},
    ("plugins", "*", "disable"): {"POST": absent.plugin},
    ("plugins", "*", "upgrade"): {"POST": absent.plugin},
    ("plugins", "*", "push"): {"POST": absent.plugin},
    ("plugins", "*", "set"): {"POST": absent.plugin},
    ("containers", "*"): {"DELETE": containers.remove},
    ("containers", "*", "json"): {"GET": containers.inspect},
    ("containers", "*", "logs"): {"GET": log_streams.read_logs},
    ("containers", "*", "attach"): {"POST": attach.attach},
    ("containers", "*", "stats"): {"GET": stats.stats},
    ("containers", "*", "start"): {"POST": containers.start},
    ("containers", "*", "stop"): {"POST": containers.stop},
    ("containers", "*", "restart"): {"POST": containers.restart},
    ("containers", "*", "pause"): {"POST": containers.pause},
    ("containers", "*", "unpause"): {"POST": containers.unpause},
    ("containers", "*", "rename"): {"POST": containers.rename},
    ("containers", "*", "top"): {"GET": processes.top},
    ("containers", "*", "kill"): {"POST": containers.kill},
    ("containers", "*", "wait"): {"POST": containers.wait},
    ("containers", "*", "update"): {"POST": updates.update},
}


class Server:
    """A running API server; ``close`` ends it."""

    def __init__(
        self,
        listening: unix_socket.ListeningSocket,
        acceptor: asyncio.Server,
        http: HttpServer,
        lifetime: Lifetime,
    ) -> None:
        self.path = listening.path
        self._listening = listening
        self._acceptor = acceptor
        self._http = http
        self._lifetime = lifetime

    async def close(self, seconds: float = 5.0) -> None:
        """Stop serving, within about ``seconds``, and remove the socket's file.

        No new clients; requests under way get to their end; followers of logs get a proper end of their stream; who
        does not read is cut off.
        """
        self._listening.remove()
        self._acceptor.close()
        self._http.pre_shutdown()
        await self._lifetime.close(seconds / 2)
        # aiohttp's shutdown uses its limit twice: waiting for a handler, then waiting for it to be cancelled
        await self._http.shutdown(seconds / 4)
        self._http.abort()
        await asyncio.to_thread(self._lifetime.readers.shutdown)

    async def hand_over(self, seconds: float = 5.0) -> tuple[int, tuple[str, int, int]]:
        """Stop serving, but go on listening, for whoever takes our place: ``unix_socket.adopt``. Clients that connect
        from now on wait for that one.

        What changes something gets to its end, if that is within ``seconds``; what waits or follows is told that it has
        to ask again, or is cut off where it has been answered in part.
        """
        handed = self._listening.hand_over()
        self._acceptor.close()
        self._http.pre_shutdown()
        await self._lifetime.abandon(seconds)
        await self._http.shutdown(0.5)
        self._http.abort()
        await asyncio.to_thread(self._lifetime.readers.shutdown)
        return handed


async def serve(
    engine: Engine,
    socket_path: str,
    *,
    allow_containers: bool = False,
    handed: tuple[int, tuple[str, int, int]] | None = None,
) -> Server:
    """Serve ``engine`` on a UNIX socket at ``socket_path`` until ``Server.close``; processes of its own containers only
    with ``allow_containers``. ``handed`` is from ``Server.hand_over``.

    Raises:
        InvalidRequest, Conflict, OSError: as ``unix_socket.listen``.
    """
    adopted = unix_socket.adopt(socket_path, *handed) if handed is not None else None
    listening = adopted or unix_socket.listen(socket_path)
    try:
        about = engine.info()
        replies = Replies(about.version)
        peers = Peers(about.cgroup_parent, allow_containers=allow_containers)
        lifetime = Lifetime()
        http = HttpServer(Router(refusals.routes(ROUTES), engine, replies, lifetime), replies, peers)
        acceptor = await asyncio.get_running_loop().create_unix_server(
            http, sock=listening.socket, backlog=unix_socket.BACKLOG
        )
    except BaseException:
        listening.remove()
        listening.socket.close()
        raise
    return Server(listening, acceptor, http, lifetime)
