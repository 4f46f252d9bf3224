"""The supervisor's HTTP surface: Docker's Engine API, and two additions, on a UNIX socket.

``server.serve`` starts it. A request goes connection -> router -> one of the handlers in ``containers``, ``system``
and ``streams``; ``docker_models`` reads what clients send, ``views`` writes what they get. Nothing here knows how a
container runs: that is behind ``ports.Engine``.
"""
