"""Tar archives, to directories: ``archive`` decompresses; ``headers``, ``sparse`` and ``members`` read the format;
``extract`` makes the files, as far as ``budget`` allows.
"""
