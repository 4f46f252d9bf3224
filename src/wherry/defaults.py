"""Where things are unless the user says otherwise."""

SOCKET = "/run/wherry/engine.sock"
"""API socket; ``--socket`` and the environment variable ENGINE_SOCKET override it."""

STATE_DIR = "/var/lib/wherry"
"""Records, logs, unpacked root file systems and writable layers."""

PIDS_LIMIT = 2048
"""How many processes and threads a container may have when nobody says otherwise: podman's default. Docker has none,
and one fork bomb takes all of the machine's.
"""

STOP_SECONDS = 10.0
"""How long ``stop`` waits between SIGTERM and SIGKILL (docker's default)."""
