"""Names of containers: which are allowed, whose they are, and one for a container created without."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Mapping
from typing import TypeVar

from wherry.errors import Conflict, InvalidRequest, NotFound, quoted

T = TypeVar("T")
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_NAME_MAX = 128


def check_name(name: str) -> str:
    """``name`` if docker would take it as a container's name.

    Raises:
        InvalidRequest: it is not ``[a-zA-Z0-9][a-zA-Z0-9_.-]*`` or has more than 128 characters.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest(f"invalid container name ({quoted(name)}), only [a-zA-Z0-9][a-zA-Z0-9_.-]* are allowed")
    if len(name) > _NAME_MAX:
        raise InvalidRequest(
            f"invalid container name ({quoted(name)}), {len(name)} characters are more than {_NAME_MAX}"
        )
    return name


def find(ref: str, by_name: Mapping[str, T], by_id: Mapping[str, T]) -> T:
    """By name, id, or unique beginning of an id. Raises NotFound, Conflict."""
    if (found := by_name.get(ref) or by_id.get(ref)) is not None:
        return found
    matches = [found for key, found in by_id.items() if ref and key.startswith(ref)]
    if len(matches) > 1:
        raise Conflict(f"the id {ref} is ambiguous: {len(matches)} containers begin with it")
    if not matches:
        raise NotFound(f"no such container: {ref}")
    return matches[0]


def generate_name(taken: Collection[str]) -> str:
    """A name that is not among ``taken``, for a container created without one: "calm_ferry", else "calm_ferry_5f3a"."""
    base = f"{secrets.choice(_ADJECTIVES.split())}_{secrets.choice(_BOATS.split())}"
    name = base
    while name in taken:
        name = f"{base}_{secrets.token_hex(2)}"
    return name


_ADJECTIVES = """
able amber bold brave brisk calm clear clever deft eager early fair fleet gentle glad grand handy happy jolly keen kind
light lively loyal lucky merry mild neat noble nimble plain polite proud quick quiet ready royal silent smooth sober
spry stable steady still sturdy sunny swift tidy trim true vivid warm wise witty
"""
_BOATS = """
barge bark barque brig canoe caravel catboat clipper cog coracle cutter dinghy dory felucca ferry flatboat frigate
galley gig gondola hoy junk kayak keelboat ketch launch lighter longship lugger packet pinnace piragua pram punt raft
sampan schooner scow shallop skiff sloop smack tender trawler tug umiak wherry whaler xebec yawl
"""
