"""Versions of docker's API: which there are here, and the one that a path asks for."""

from __future__ import annotations

import re

from wherry.errors import InvalidRequest

Version = tuple[int, int]
NEWEST: Version = (1, 44)
OLDEST: Version = (1, 24)
_SEGMENT = re.compile(r"v([0-9]{1,4})\.([0-9]{1,4})")


def shown(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


def of_segment(text: str) -> Version | None:
    """The version that the first segment of a path ("v1.41") names; None when it is none.

    Raises:
        InvalidRequest: one that is not spoken here, in the words that docker's clients look for.
    """
    match = _SEGMENT.fullmatch(text)
    if match is None:
        return None
    version = int(match[1]), int(match[2])
    if version > NEWEST:
        newest = shown(NEWEST)
        raise InvalidRequest(f"client version {shown(version)} is too new. Maximum supported API version is {newest}")
    if version < OLDEST:
        raise InvalidRequest(
            f"client version {shown(version)} is too old. Minimum supported API version is {shown(OLDEST)}, "
            "please upgrade your client to a newer version"
        )
    return version
