"""Root file systems: a ROOTFS argument, a directory or a tar archive, to a directory.

``archive`` decompresses; ``headers``, ``sparse`` and ``members`` read the tar format; ``extract`` makes the files;
``trees`` removes them; ``store`` keeps what was unpacked.
"""

from wherry.rootfs.store import RootfsStore

__all__ = ["RootfsStore"]
