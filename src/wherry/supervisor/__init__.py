"""The supervisor: owns the containers' life cycle and records; ``wherry.daemon`` puts the API on top of it.

``engine`` is what a client can ask, ``lifespan`` how it opens, takes over and closes. The rooms: ``containers`` (what
was asked for, records, specs, causes), ``lifecycle`` (starts, changes, ends), ``processes`` (the shim and what it
holds), ``memory_watch`` (limits and their events). The rest is what all containers share: records and events on disk,
disk space, room for more.
"""
