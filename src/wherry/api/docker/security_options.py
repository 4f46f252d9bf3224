"""Docker's ``HostConfig.SecurityOpt``, as far as it is carried out here."""

from __future__ import annotations

from collections.abc import Sequence

from wherry.errors import InvalidRequest, NotSupported, quoted
from wherry.runtime import seccomp
from wherry.supervisor.containers.request import UNCONFINED

_PROFILE_MAX = 256 << 10


def seccomp_profile(options: Sequence[str]) -> str:
    """What ``CreateRequest.seccomp`` is to say: "" for the default, "unconfined", or a profile in JSON.

    Raises InvalidRequest, NotSupported: an option that is not carried out is not ignored.
    """
    profile = ""
    for option in options:
        # Docker's old form has a colon.
        name, _, value = option.replace(":", "=", 1).partition("=") if "=" not in option else option.partition("=")
        if name == "seccomp":
            profile = _checked(value)
        elif name != "no-new-privileges":
            raise NotSupported(f"HostConfig.SecurityOpt {quoted(option)} is not supported")
        elif value not in ("", "true"):
            raise NotSupported(f"HostConfig.SecurityOpt {quoted(option)} is not supported: no_new_privs is always set")
    return profile


def _checked(value: str) -> str:
    if value in ("", "default", "builtin"):
        return ""
    if value == UNCONFINED:
        return value
    if len(value) > _PROFILE_MAX:
        raise InvalidRequest(f"seccomp profile of {len(value)} characters: the most are {_PROFILE_MAX}")
    if not value.lstrip().startswith("{"):
        raise InvalidRequest(f"seccomp={quoted(value)} is neither unconfined, builtin nor a profile in JSON")
    seccomp.parse(value)
    return value
