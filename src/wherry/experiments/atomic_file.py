"""Files of a report."""

from __future__ import annotations

import contextlib
import os
import tempfile


def replace(path: str, content: bytes) -> None:
    """Whoever reads ``path`` meanwhile has the old file or the new one. Raises OSError; then nothing new is there.

    The folder may be one that others write to, such as /tmp: the new file is one that was not there (mkstemp(3)), and
    what stands at ``path``, a link for example, is not followed.
    """
    descriptor, part = tempfile.mkstemp(prefix=".", dir=os.path.dirname(path) or ".")
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), 0o644)
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise
