"""``engine supervisor``: put the parts together, serve until a signal, leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sqlite3
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from wherry.api.server import serve
from wherry.errors import InvalidRequest, WherryError
from wherry.kernel import descriptors
from wherry.supervisor import turns
from wherry.supervisor.engine import Engine
from wherry.supervisor.quiet_log import RateLimit
from wherry.supervisor.state_directory import StateDirectory
from wherry.supervisor.turns import MeasuringSelector

_log = logging.getLogger("wherry.supervisor")
_THREADS = 32


def run_supervisor(
    rootfs: str | None,
    socket_path: str,
    state_dir: str,
    *,
    debug: bool,
    prepared: int,
    enforcer: str,
    allow_containers: bool,
    pids_limit: int | None,
) -> int:
    """Run in the foreground until SIGINT or SIGTERM; returns the exit code, 1 when something of ours lives on.

    ``rootfs`` is checked at once and containers are prepared ahead for it; ``prepared`` is how many.
    ``enforcer`` is who holds memory limits, "auto" for the best that works; ``allow_containers`` lets processes of
    containers connect; ``pids_limit`` is of containers that are created without one, None for no limit.
    """
    _configure_logging(debug)
    try:
        if os.geteuid() != 0:
            raise InvalidRequest("the supervisor needs root: namespaces, mounts and control groups are made by it")
        state = StateDirectory(state_dir)
        with asyncio.Runner(loop_factory=_make_loop) as runner:
            engine = Engine(state, socket_path, prepared, enforcer, pids_limit)
            left = runner.run(_serve(rootfs, socket_path, engine, allow_containers))
    except (WherryError, OSError, sqlite3.Error) as error:
        print(f"engine supervisor: {error}", file=sys.stderr)
        return 1
    for text in left:
        print(f"engine supervisor: left behind: {text}", file=sys.stderr)
    return 1 if left else 0


def _configure_logging(debug: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    # journald adds the time itself.
    form = "%(levelname)s %(message)s" if "JOURNAL_STREAM" in os.environ else "%(asctime)s %(levelname)s %(message)s"
    handler.setFormatter(logging.Formatter(form))
    handler.addFilter(RateLimit())
    root = logging.getLogger("wherry")
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if debug else logging.INFO)


def _make_loop() -> asyncio.AbstractEventLoop:
    """Its threads mostly wait in the kernel: for the sync of an overlay, for a grace period. Work that needs the
    interpreter for long, or a disk, has threads of its own.
    """
    loop = asyncio.SelectorEventLoop(MeasuringSelector(turns.OF_SUPERVISOR))
    loop.set_default_executor(ThreadPoolExecutor(_THREADS, "wherry"))
    return loop


async def _serve(rootfs: str | None, socket_path: str, engine: Engine, allow_containers: bool) -> Sequence[str]:
    """Until a signal. Returns what could not be ended, a line each."""
    os.umask(0o022)
    descriptors.raise_own_limit()
    # The loop, the log pipeline and the threads that clean up take turns of 5 ms by default: longer than a start.
    sys.setswitchinterval(0.0005)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    await engine.open()
    try:
        await engine.prepare(rootfs)
        server = await serve(engine, socket_path, allow_containers=allow_containers)
    except BaseException:
        # A wrong path on our command line is no reason to stop what an earlier supervisor left running.
        await engine.detach()
        raise
    _freeze_heap()
    turns.OF_SUPERVISOR.reset()
    _log.info("serving on %s, state in %s", socket_path, engine.info().state_dir)
    notify("READY=1")
    try:
        await stopped.wait()
    finally:
        notify("STOPPING=1")
        # The clients that wait for these ends, or follow these logs, still get the last word.
        await engine.stop_all()
        await server.close()
        left = await engine.close()
    return left


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
