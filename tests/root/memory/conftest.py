"""Fixtures of the tests that arm the BPF enforcer themselves."""

from __future__ import annotations

from tests.root.memory.armed import arm, host, limiter

__all__ = ["arm", "host", "limiter"]
