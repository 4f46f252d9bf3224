"""Memory limits: armed, taken over, audited, their events handed on; ``memory.Memory`` is the way in."""
