"""``engine supervisor``: put the parts together, serve until a signal, leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import sqlite3
import sys
from pathlib import Path

from wherry.api.server import serve
from wherry.errors import InvalidRequest, WherryError
from wherry.rootfs import Limits
from wherry.supervisor.engine import Engine
from wherry.supervisor.state_directory import StateDirectory

_log = logging.getLogger("wherry.supervisor")


def run_supervisor(
    rootfs: str | None,
    socket_path: str,
    state_dir: str,
    *,
    debug: bool,
    prepared: int,
    enforcer: str,
    disk: dict[str, int],
) -> int:
    """Run in the foreground until SIGINT or SIGTERM; returns the exit code.

    ``rootfs`` is checked at once and containers are prepared ahead for it; ``prepared`` is how many.
    ``enforcer`` is who holds memory limits, "auto" for the best that works. ``disk`` has fields of ``rootfs.Limits``.
    """
    _configure_logging(debug)
    try:
        if os.geteuid() != 0:
            raise InvalidRequest("the supervisor needs root: namespaces, mounts and control groups are made by it")
        state = StateDirectory(state_dir)
        engine = Engine(state, socket_path, prepared, enforcer, Limits(**disk))
        asyncio.run(_serve(engine, rootfs, socket_path))
    except (WherryError, OSError, sqlite3.Error) as error:
        print(f"engine supervisor: {error}", file=sys.stderr)
        return 1
    return 0


def _configure_logging(debug: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    # journald adds the time itself.
    form = "%(levelname)s %(message)s" if "JOURNAL_STREAM" in os.environ else "%(asctime)s %(levelname)s %(message)s"
    handler.setFormatter(logging.Formatter(form))
    root = logging.getLogger("wherry")
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if debug else logging.INFO)


async def _serve(engine: Engine, rootfs: str | None, socket_path: str) -> None:
    os.umask(0o022)
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # The loop, the log pipeline and the threads that clean up take turns of 5 ms by default: longer than a start.
    sys.setswitchinterval(0.0005)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    await engine.open()
    try:
        await engine.prepare(rootfs)
        server = await serve(engine, socket_path)
    except BaseException:
        # A wrong path on our command line is no reason to stop what an earlier supervisor left running.
        await engine.detach()
        raise
    _freeze_heap()
    _log.info("serving on %s, state in %s", socket_path, engine.info().state_dir)
    notify("READY=1")
    try:
        await stopped.wait()
    finally:
        notify("STOPPING=1")
        # The clients that wait for these ends, or follow these logs, still get the last word.
        await engine.stop_all()
        await server.close()
        await engine.close()


def _freeze_heap() -> None:
    """What has been imported stays for ever: keep the collector from walking it in the middle of a start."""
    gc.collect()
    gc.freeze()


def notify(state: str) -> None:
    """sd_notify(3): tell systemd, if it started us, by one datagram to the socket it named."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as datagram:
        try:
            datagram.sendto(state.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
        except OSError as error:
            _log.warning("cannot notify %s: %s", Path(address), error)
