"""The shim and the processes that it holds for us."""
