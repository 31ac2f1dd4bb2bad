"""
A cache in one file that travels: written whole or not at all, checked whole before use.

`save` and `restore` move what a store holds, `write` and `read` entries without a store. The
one format they share is in ``_format.py``.
"""

from mneme.checkpoint._read import Archive, read
from mneme.checkpoint._restore import restore, restore_to_file
from mneme.checkpoint._write import save, write

__all__ = ["Archive", "read", "restore", "restore_to_file", "save", "write"]
