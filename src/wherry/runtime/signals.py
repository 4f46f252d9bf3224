"""Signals by name and number, as command lines and docker's API write them."""

from __future__ import annotations

import re
import signal

from wherry.errors import InvalidRequest, quoted


def signal_number(text: str) -> int:
    """The number of a signal given as "15", "TERM", "SIGTERM" or "RTMIN+3", in any case.

    Raises:
        InvalidRequest: there is no such signal.
    """
    name = text.upper().removeprefix("SIG")
    if re.fullmatch(r"[0-9]{1,2}", name):
        number = int(name)
    elif match := re.fullmatch(r"RT(MIN|MAX)(?:([+-])([0-9]{1,2}))?", name):
        offset = int((match[2] or "+") + (match[3] or "0"))
        number = offset + (signal.SIGRTMIN if match[1] == "MIN" else signal.SIGRTMAX)
        number = number if signal.SIGRTMIN <= number <= signal.SIGRTMAX else 0
    else:
        number = int(signal.Signals.__members__.get("SIG" + name, 0))
    if not 1 <= number <= signal.SIGRTMAX:
        raise InvalidRequest(f"invalid signal: {quoted(text)}")
    return number
