"""Signals by number and by name."""

from __future__ import annotations

import pytest

from wherry.errors import InvalidRequest
from wherry.runtime.signals import signal_number


def test_signals() -> None:
    assert [signal_number(text) for text in ("9", "KILL", "sigkill", "RTMIN", "SIGRTMAX-1")] == [9, 9, 9, 34, 63]
    for text in ("", "0", "65", "SIG", "SIGRTMIN+31", "RTMAX+1", "RTMIN-1", "1.5", "٣"):
        with pytest.raises(InvalidRequest):
            signal_number(text)
