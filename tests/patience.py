"""How long tests wait before they give up."""

from __future__ import annotations

PATIENCE = 120.0
"""Seconds, for whatever a working machine does at once: only a test that fails waits so long, however slow or busy the
machine. Less than the time limit of a test (pyproject.toml), so that the test says what it has waited for.
"""
