"""What goes over the socket, as a Python caller sees it. Client-side only.

The supervisor has models of its own (``wherry.supervisor``), and the two meet in the API's JSON. Plain classes and no
dataclasses, because the command line pays for every import (see ``wherry.http1``).

    config      keyword options -> the body of POST /wherry/run
    replies     the API's JSON -> objects
    stream      Docker's raw-stream format
    jsontext    JSON without the package json
"""
