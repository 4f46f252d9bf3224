"""Root file systems: a ROOTFS argument, a directory or a tar archive, to a directory.

``archive`` decompresses; ``headers``, ``sparse`` and ``members`` read the tar format; ``extract`` makes the files as
far as ``budget`` allows; ``trees`` measures and removes them; ``store`` keeps what was unpacked, and ``catalogue``
knows who uses it.
"""

from wherry.rootfs.budget import Limits, Space
from wherry.rootfs.catalogue import Unpacked
from wherry.rootfs.store import RootfsStore

__all__ = ["Limits", "RootfsStore", "Space", "Unpacked"]
