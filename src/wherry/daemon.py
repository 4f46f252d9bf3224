"""``engine supervisor``: put the parts together, serve until a signal, leave nothing behind."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import json
import logging
import os
import signal
import socket
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from wherry.api.server import Server, serve
from wherry.errors import InvalidRequest, WherryError
from wherry.kernel import descriptors
from wherry.storage.tar.budget import ArchiveLimits
from wherry.supervisor import reload, turns
from wherry.supervisor.engine import Engine
from wherry.supervisor.id_ranges import Userns
from wherry.supervisor.log_lines import LineFormatter
from wherry.supervisor.quiet_log import RateLimit
from wherry.supervisor.reload import Handover
from wherry.supervisor.signal_handling import Signals
from wherry.supervisor.state_directory import StateDirectory
from wherry.supervisor.turns import MeasuringSelector

_log = logging.getLogger("wherry.supervisor")
_THREADS = 32


class Settings(NamedTuple):
    """As ``run_supervisor`` takes them."""

    rootfs: str | None
    socket_path: str
    prepared: int
    enforcer: str
    bpffs: str | None
    allow_containers: bool
    pids_limit: int | None
    limits: ArchiveLimits
    userns: Userns


def run_supervisor(  # noqa: PLR0913 (what the command line says, by name)
    rootfs: str | None,
    socket_path: str,
    state_dir: str,
    *,
    debug: bool,
    prepared: int,
    enforcer: str,
    bpffs: str | None,
    allow_containers: bool,
    pids_limit: int | None,
    userns: str,
    userns_range: str,
    disk: dict[str, int],
) -> int:
    """Run in the foreground until SIGINT or SIGTERM; returns the exit code, 1 when something of ours lives on.

    ``rootfs`` is checked at once and containers are prepared ahead for it; ``prepared`` is how many.
    ``enforcer`` is who holds memory limits, "auto" for the best that works; ``bpffs`` is where they are to be pinned,
    None for nowhere; ``allow_containers`` lets processes of containers connect; ``pids_limit`` is of containers that
    are created without one, None for no limit; ``userns`` and ``userns_range`` are fields of ``id_ranges.Userns``;
    ``disk`` has fields of ``budget.ArchiveLimits``.
    """
    # Ignored, as whoever started us may have left it, the kernel would reap our children, and the shim's with the exit
    # codes of containers: waitpid(2).
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _configure_logging(debug)
    faulthandler.enable()  # what ends the interpreter itself is told on stderr too
    try:
        if os.geteuid() != 0:
            raise InvalidRequest("the supervisor needs root: namespaces, mounts and control groups are made by it")
        state = StateDirectory(state_dir)
        limits = ArchiveLimits(**disk)
        settings = Settings(
            rootfs,
            socket_path,
            prepared,
            enforcer,
            bpffs,
            allow_containers,
            pids_limit,
            limits,
            Userns(userns, userns_range),
        )
        handover = reload.taken()
        while True:
            with asyncio.Runner(loop_factory=_make_loop) as runner:
                outcome = runner.run(_serve(settings, state, handover))
            if not isinstance(outcome, Handover):
                break
            handover = outcome
            handover.execute()
    except (WherryError, OSError, sqlite3.Error) as error:
        print(f"engine supervisor: {error}", file=sys.stderr)
        return 1
    for text in outcome:
        print(f"engine supervisor: left behind: {text}", file=sys.stderr)
    return 1 if outcome else 0


def check(rootfs: str | None) -> int:
    """Whether a supervisor could be started, as far as that can be told without doing it: that we are here says that
    all of it can be loaded. Prints what a reload must know of this program, and returns the exit code.
    """
    if rootfs is not None and not os.path.exists(rootfs):
        print(f"engine supervisor: rootfs {rootfs!r}: no such file or directory", file=sys.stderr)
        return 1
    print(json.dumps(reload.versions()))
    return 0


def _configure_logging(debug: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    # journald adds the time itself.
    form = "%(levelname)s %(message)s" if "JOURNAL_STREAM" in os.environ else "%(asctime)s %(levelname)s %(message)s"
    handler.setFormatter(LineFormatter(form))
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


async def _serve(settings: Settings, state: StateDirectory, handover: Handover | None) -> Handover | Sequence[str]:
    """Until it is to stop; returns what could not be ended then, a line each. Or, with a ``Handover``, until the
    installed program is to take over.
    """
    os.umask(0o022)
    descriptors.raise_own_limit()
    # The loop, the log pipeline and the threads that clean up take turns of 5 ms by default: longer than a start.
    sys.setswitchinterval(0.0005)
    names = (settings.socket_path, settings.prepared, settings.enforcer, settings.pids_limit, settings.limits)
    engine = Engine(state, *names, settings.bpffs, settings.userns)
    signals = Signals(lambda: _described(engine))
    if handover is not None:
        state.take_lock(handover.lock)
    await engine.open()
    try:
        await engine.prepare(settings.rootfs)
        handed = None if handover is None else (handover.listener, handover.socket)
        server = await serve(engine, settings.socket_path, allow_containers=settings.allow_containers, handed=handed)
    except BaseException:
        # A wrong path on our command line is no reason to stop what an earlier supervisor left running.
        await engine.detach()
        raise
    _freeze_heap()
    turns.OF_SUPERVISOR.reset()
    _log.info("serving on %s, state in %s", settings.socket_path, state.path)
    notify("READY=1")
    if await _is_to_reload(signals):
        return await _hand_over(engine, server, state, signals)
    notify("STOPPING=1")
    # The clients that wait for these ends, or follow these logs, still get the last word.
    await engine.stop_all()
    await server.close()
    return await engine.close()


async def _is_to_reload(signals: Signals) -> bool:
    """False: it is to stop. A reload that would fail is logged, and all goes on as it was."""
    while await signals.wants_reload():
        notify(f"RELOADING=1\nMONOTONIC_USEC={reload.monotonic_usec()}")
        checking = asyncio.ensure_future(reload.obstacle())
        stopping = asyncio.ensure_future(signals.stopping.wait())
        await asyncio.wait({checking, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not checking.done():
            checking.cancel()
            await asyncio.wait({checking})
            return False
        if not (reason := checking.result()):
            return True
        _log.error("not reloaded: %s", reason)
        signals.reload_is_over()
        notify("READY=1")
    return False


async def _hand_over(engine: Engine, server: Server, state: StateDirectory, signals: Signals) -> Handover:
    listener, file = await server.hand_over()
    lock = state.give_lock()
    await engine.detach()
    signals.block()
    return Handover(lock, listener, file)


def _described(engine: Engine) -> Iterator[str]:
    info = engine.info()
    yield f"version {info.version}, pid {info.pid}, state in {info.state_dir}, memory limits by {info.enforcer or '-'}"
    yield (
        f"containers: {info.containers_running} running, {info.containers_paused} paused, "
        f"{info.containers_restarting} restarting, "
        f"{info.containers_created} created, {info.containers_exited} exited, {info.spares} prepared"
    )
    yield f"descriptors: {descriptors.count()} of {descriptors.limit()}"
    try:
        yield f"shim: pid {info.shim_pid}, {descriptors.count(info.shim_pid)} of {descriptors.limit(info.shim_pid)}"
    except OSError as error:
        yield f"shim: pid {info.shim_pid}, {error.strerror}"


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
