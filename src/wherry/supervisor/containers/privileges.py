"""Which capabilities a container may be given or spared: ``CapAdd`` and ``CapDrop``.

Root in a container is the host's root, held back by what it lacks. So nothing can be added that reaches beyond the
container's own namespaces, control groups and file systems: CAP_SYS_ADMIN, CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH and the
like (capabilities(7)).
"""

from __future__ import annotations

from collections.abc import Iterable

from wherry.errors import InvalidRequest, NotSupported, quoted
from wherry.kernel import capabilities
from wherry.runtime import presets
from wherry.runtime.spec import Capabilities

ALL = "ALL"
_OF_OWN_NETWORK = frozenset({"CAP_NET_ADMIN", "CAP_NET_BROADCAST"})
ADDABLE = (
    frozenset(presets.CAPABILITIES.bounding)
    | _OF_OWN_NETWORK
    # Device nodes that it makes cannot be opened in it: all its file systems are nodev.
    | {"CAP_NET_RAW", "CAP_MKNOD", "CAP_AUDIT_WRITE", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_LEASE", "CAP_SYS_NICE"}
)


def normalised(names: Iterable[str]) -> tuple[str, ...]:
    """ "net_raw" as CAP_NET_RAW, each once. Raises InvalidRequest for a capability that there is not."""
    found: dict[str, None] = {}
    for name in names:
        word = name.upper()
        word = word if word == ALL or word.startswith("CAP_") else f"CAP_{word}"
        if word != ALL and word not in capabilities.NAMES:
            raise InvalidRequest(f"invalid capability: {quoted(name)}")
        found[word] = None
    return tuple(found)


def check(added: Iterable[str], own_network: bool) -> None:
    """Raises NotSupported for one that would be more than the container's own."""
    for name in added:
        if name == ALL:
            raise NotSupported("capability ALL cannot be added: root in the container would be root of the host")
        if name not in ADDABLE:
            raise NotSupported(f"capability {name} cannot be added: it reaches beyond the container")
        if name in _OF_OWN_NETWORK and not own_network:
            raise NotSupported(f"capability {name} cannot be added on the host's network, which it would rule")


def granted(added: Iterable[str], dropped: Iterable[str], is_root: bool) -> Capabilities:
    """The default ones without ``dropped``, and ``added``; another user than root has none before it executes
    something, as with docker.
    """
    gone, more = set(dropped), tuple(added)
    kept = () if ALL in gone else (name for name in presets.CAPABILITIES.bounding if name not in gone)
    names = tuple(dict.fromkeys((*kept, *more)))
    return Capabilities(bounding=names, effective=names, permitted=names) if is_root else Capabilities(bounding=names)
