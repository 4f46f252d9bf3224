"""Docker's container configuration as a CreateRequest."""

from __future__ import annotations

from typing import Any

from wherry.api.docker.create import create_request
from wherry.supervisor.containers.request import CreateRequest


def translate(host: dict[str, Any] | None = None, ours: dict[str, Any] | None = None, **fields: Any) -> CreateRequest:
    body = {"Cmd": ["true"], "HostConfig": host, "Wherry": {"Rootfs": "/srv/rootfs", **(ours or {})}, **fields}
    return create_request(body)
