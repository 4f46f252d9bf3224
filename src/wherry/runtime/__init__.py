"""The OCI runtime core: a spec (``spec``) becomes a plan of named steps (``plan``, ``steps``), which the container's
first process runs on itself between clone and execve (``init``). ``launch`` is the parent's side.

``spec`` and ``plan`` need msgspec and run in the supervisor (or in wherry-oci); ``steps``, ``init``, ``pid1`` and
``launch`` run in the shim and its children and import little.
"""
