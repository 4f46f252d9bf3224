"""GET /containers/X/stats: what a container uses, as docker's clients read it, with its log buffer's counters.

GET /wherry/stats is the same of many at once, in one answer: a request for each takes 2 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from typing import Any

import msgspec
from aiohttp import web

from wherry.api.docker import views
from wherry.api.http.replies import encode
from wherry.api.http.router import Call
from wherry.api.needs import Engine
from wherry.errors import NotFound
from wherry.logs import rfc3339_nano
from wherry.supervisor.containers.usage import Held, Usage, held, host_cpu_ns

_INTERVAL_SECONDS = 1.0
_BATCH = 50


async def stats(call: Call) -> web.StreamResponse:
    """A JSON object a second, or one: after a second, so that it has two CPU times, or at once with one-shot=1."""
    query = call.query.only("stream", "one-shot")
    call.engine.get(call.ref)
    if query.flag("stream") or not query.text("stream"):  # docker: without a word a stream
        return await _stream(call)
    before = _NOTHING
    if not query.flag("one-shot"):
        before = await _Sample.of(call)
        with call.lifetime.watching(ends_cleanly=False):
            await asyncio.sleep(_INTERVAL_SECONDS)
    return call.replies.json(_answer(call.engine, call.ref, before, await _Sample.of(call)))


async def of_many(call: Call) -> web.StreamResponse:
    """A list of the objects that one-shot=1 gives: of ``names`` (commas between them), or else of all that run."""
    names = call.query.only("names").text("names")
    running = (record.id for record in call.engine.list() if record.is_live)
    refs = names.split(",") if names else list(running)
    used = await call.engine.usages(refs)
    answers = []
    for number, ref in enumerate(refs):
        if number % _BATCH == 0:
            await asyncio.sleep(0)  # the loop is others' too
        try:
            sample = _Sample(used.get(ref), _held(call.engine, ref))
            answers.append(_answer(call.engine, ref, _NOTHING, sample))
        except NotFound:  # removed in this moment
            if names:
                raise
    return call.replies.json(answers)


async def _stream(call: Call) -> web.StreamResponse:
    response = call.replies.late_json()
    await response.prepare(call.request)
    before = _NOTHING
    with call.lifetime.watching(ends_cleanly=True), contextlib.suppress(NotFound):  # it has been removed
        while True:
            now = await _Sample.of(call)
            await response.write(encode(_answer(call.engine, call.ref, before, now)) + b"\n")
            before = now
            await asyncio.sleep(_INTERVAL_SECONDS)
    return response


def _held(engine: Engine, ref: str) -> Held | None:
    return held(engine.get(ref), engine.resident(ref))


class _Sample:
    """What a container uses in one moment, with the CPU times of the host in the same."""

    def __init__(self, used: Usage | None, counted: Held | None = None, *, taken: bool = True) -> None:
        self.used = used
        self.held = counted
        self.host_cpu_ns = 0 if used is None else host_cpu_ns()
        self.read = rfc3339_nano(time.time_ns() if taken else 0)

    @classmethod
    async def of(cls, call: Call) -> _Sample:
        used = await call.engine.usages([call.ref])  # in a thread: a container with many groups makes it long
        return cls(used.get(call.ref), _held(call.engine, call.ref))

    def cpu(self) -> dict[str, Any]:
        used = self.used
        times = {
            "total_usage": 0 if used is None else used.cpu_ns,
            "usage_in_kernelmode": 0 if used is None else used.system_ns,
            "usage_in_usermode": 0 if used is None else used.user_ns,
        }
        return {
            "cpu_usage": times,
            "system_cpu_usage": self.host_cpu_ns,
            "online_cpus": os.cpu_count() or 1,
            "throttling_data": {
                "periods": 0 if used is None else used.throttling.periods,
                "throttled_periods": 0 if used is None else used.throttling.throttled_periods,
                "throttled_time": 0 if used is None else used.throttling.throttled_ns,
            },
        }

    def memory(self) -> dict[str, Any]:
        used = self.used
        if used is None or used.memory_bytes is None:
            return {}
        host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        # The limit that kills, and what is held against it.
        usage, limit, cache = used.memory_bytes, used.memory_limit_bytes or host, used.inactive_file_bytes
        if self.held is not None:
            usage, limit, cache = self.held.rss_bytes, self.held.limit_bytes, 0
        # Two names: docker's client takes the page cache off by the one that its version of control groups has.
        stats = dict.fromkeys(("total_inactive_file", "inactive_file"), cache)
        return {"usage": usage, "limit": limit, "stats": stats}

    def pids(self) -> dict[str, Any]:
        if self.used is None or self.used.pids is None:
            return {}
        limit = {} if self.used.pids_limit is None else {"limit": self.used.pids_limit}
        return {"current": self.used.pids, **limit}


_NOTHING = _Sample(None, taken=False)


def _resident(engine: Engine, ref: str) -> dict[str, int | None] | None:
    """Of a container with a soft or hard limit: what is held against it."""
    found = engine.resident(ref)
    if found is None:
        return None
    counted = {"Rss": found.rss_bytes, "Peak": found.peak_bytes, "Processes": found.processes}
    return {**counted, "Uncounted": found.uncounted}


def _answer(engine: Engine, ref: str, before: _Sample, now: _Sample) -> dict[str, Any]:
    record = engine.get(ref)
    return {
        "id": record.id,
        "name": "/" + record.name,
        "read": now.read,
        "preread": before.read,
        "num_procs": 0,
        "cpu_stats": now.cpu(),
        "precpu_stats": before.cpu(),
        "memory_stats": now.memory(),
        "pids_stats": now.pids(),
        "blkio_stats": {},
        "storage_stats": {},
        "Wherry": {"Log": msgspec.to_builtins(views.log_view(engine.log(ref))), "Memory": _resident(engine, ref)},
    }
