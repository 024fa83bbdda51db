"""How the C library's allocator is set up: to keep what tensors of a request need, and to give back the rest.

By default glibc maps and unmaps memory for each large block, and every page of a new mapping costs a fault: for
messages of megabytes that is most of the time that a hop takes.
"""

import ctypes
import sys
from typing import Final

_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_ARENA_MAX: Final = -8
_LARGEST_MMAP_THRESHOLD: Final = 32 * 2**20  # what glibc accepts at most
_KEPT_BYTES: Final = 64 * 2**20


def keep_freed_memory() -> None:
    """Lets the allocator reuse the blocks of one request for the next; does nothing where it isn't glibc's."""
    library = _library()
    if library is not None and hasattr(library, "mallopt"):
        library.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        library.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        library.mallopt(_ARENA_MAX, 2)  # each thread's arena would keep freed blocks of its own


def give_back() -> None:
    """Returns freed memory to the system, after something large was let go."""
    library = _library()
    if library is not None and hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


def _library() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None
