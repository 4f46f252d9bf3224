"""Platforms as docker writes them: OS[/ARCHITECTURE[/VARIANT]]. There is one here, this machine's."""

from __future__ import annotations

import os
import re

from wherry.errors import InvalidRequest, NotSupported, quoted

_NAMES = {"x86_64": "amd64", "aarch64": "arm64"}
_VARIANTS = {"arm64": {"", "v8"}}
_FORM = re.compile(r"[a-z0-9_.-]+(/[a-z0-9_.-]+){0,2}")


def architecture() -> str:
    """This machine's in docker's words, which are Go's, for what uname(2) says."""
    machine = os.uname().machine
    return _NAMES.get(machine, machine)


def check_platform(text: str) -> None:
    """The parameter "platform" of a create call: what its image is to be made for.

    Raises:
        InvalidRequest: it has not that form.
        NotSupported: another platform than this machine's.
    """
    if not text:
        return
    if not _FORM.fullmatch(text.lower()):
        raise InvalidRequest(f"invalid platform: {quoted(text)} is not OS[/ARCHITECTURE[/VARIANT]]")
    system, asked, variant = [*text.lower().split("/"), "", ""][:3]
    ours = architecture()
    asked = _NAMES.get(asked, asked) or ours
    if system != "linux" or asked != ours or variant not in _VARIANTS.get(ours, {""}):
        raise NotSupported(f"platform {quoted(text)} is not supported: this machine is linux/{ours}")
