"""What containers' files are made of: unpacked archives and writable layers, on the supervisor's disk.

``tar`` reads archives and makes their files; ``rootfs`` keeps what was unpacked, ``catalogue`` knows who uses it;
``layers`` are what containers write to; ``trees`` measures and removes directories.
"""
