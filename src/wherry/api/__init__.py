"""The supervisor's HTTP surface: Docker's Engine API, and a few additions, on a UNIX socket.

``server`` knows the routes and starts it. A request goes through ``http`` (connection, router, what a request may cost)
to one of the ``handlers``; ``docker`` reads what clients send and writes what they get, in the shapes of Docker's API.
Nothing here knows how a container runs: that is behind ``needs.Engine``.
"""
