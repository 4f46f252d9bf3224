"""Where things are unless the user says otherwise."""

SOCKET = "/run/wherry/engine.sock"
"""API socket; ``--socket`` and the environment variable ENGINE_SOCKET override it."""

STATE_DIR = "/var/lib/wherry"
"""Records, logs, unpacked root file systems and writable layers."""

STOP_SECONDS = 10.0
"""How long ``stop`` waits between SIGTERM and SIGKILL (docker's default)."""
