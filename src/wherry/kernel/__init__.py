"""One file per kernel facility, over system calls. Knows nothing of containers; imports only the standard library and
``libc``.

Everything here may run between clone and execve, inside a container's namespaces: no lazy imports, no logging, and a
failure is always an OSError that carries the call (``libc.call_of``) and the path.
"""
