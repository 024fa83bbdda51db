"""How memory is had: what tensors of a request need is kept, what is let go is given back, what stays gets huge pages.

By default glibc maps and unmaps memory for each large block, and every page of a new mapping costs a fault: for
messages of megabytes that is most of the time that a hop takes.
"""

import contextlib
import ctypes
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_TRIM_THRESHOLD: Final = -1
_TOP_PAD: Final = -2
_MMAP_THRESHOLD: Final = -3
_ARENA_MAX: Final = -8
_LARGEST_MMAP_THRESHOLD: Final = 32 * 2**20  # what glibc accepts at most
_KEPT_BYTES: Final = 64 * 2**20

_HUGE_BYTES: Final = 2 * 2**20
_PAGES: Final = _HUGE_BYTES // os.sysconf("SC_PAGE_SIZE")  # in a huge one
_FULL: Final = 0.9  # of its pages in use for a huge one to be worth it: the others would be from then on
_MADV_HUGEPAGE: Final = 14
_MADV_COLLAPSE: Final = 25
_PERMISSION: Final = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_MAPPING: Final = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) rw-p 0+ 00:00 0 *(?:\[heap\]|\[anon:.*)?$", re.MULTILINE)


def keep_freed_memory() -> None:
    """Lets the allocator reuse the blocks of one request for the next; does nothing where it isn't glibc's."""
    library = _library()
    if library is not None and hasattr(library, "mallopt"):
        library.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        library.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        library.mallopt(_TOP_PAD, _KEPT_BYTES)  # in few steps; what is not used costs nothing
        library.mallopt(_ARENA_MAX, 2)  # each thread's arena would keep freed blocks of its own


def give_back() -> None:
    """Returns freed memory to the system, after something large was let go."""
    library = _library()
    if library is not None and hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


def use_huge_pages() -> Iterator[int]:
    """Has memory that is in use all through mapped by huge pages, where the system allows it; yields each step's bytes.

    After a computation the processor's caches hold neither the data nor the page table's entries that a request needs
    next; in huge pages it needs few of those. A step is one huge page, and takes about a millisecond.
    """
    library = _library()
    if library is None or not hasattr(library, "madvise") or not _allowed():
        return
    for heap in re.finditer(r"^([0-9a-f]+)-([0-9a-f]+) rw-p .*\[heap\]$", _mappings(), re.MULTILINE):
        _advise(library, int(heap[1], 16), int(heap[2], 16), _MADV_HUGEPAGE)  # what it will have in use, too
    for begin, end in _full_runs():
        _advise(library, begin, end, _MADV_HUGEPAGE)
        for place in range(begin, end, _HUGE_BYTES):
            if _advise(library, place, place + _HUGE_BYTES, _MADV_COLLAPSE):
                yield _HUGE_BYTES


def _advise(library: ctypes.CDLL, begin: int, end: int, advice: int) -> bool:
    first = -(-begin // _HUGE_BYTES) * _HUGE_BYTES
    size = end // _HUGE_BYTES * _HUGE_BYTES - first
    return size > 0 and library.madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), advice) == 0


def _mappings() -> str:
    return Path("/proc/self/maps").read_text(encoding="utf-8")


def _allowed() -> bool:
    with contextlib.suppress(OSError):
        return "[never]" not in _PERMISSION.read_text(encoding="ascii")
    return False


def _full_runs() -> Iterator[tuple[int, int]]:
    """Where private memory without a file lies that is in use all through, as runs of whole huge pages."""
    import numpy as np  # no process that merely imports this needs it

    with contextlib.suppress(OSError), Path("/proc/self/pagemap").open("rb", buffering=0) as table:
        for found in _MAPPING.finditer(_mappings()):
            first = -(-int(found[1], 16) // _HUGE_BYTES)
            count = int(found[2], 16) // _HUGE_BYTES - first
            if count <= 0:
                continue
            table.seek(first * _PAGES * 8)
            entries = np.frombuffer(table.read(count * _PAGES * 8), np.uint64)
            present = (entries >> np.uint64(63)).reshape(-1, _PAGES).sum(1)
            full = np.flatnonzero(np.diff(present >= _FULL * _PAGES, prepend=False, append=False))
            for begin, end in full.reshape(-1, 2).tolist():
                yield (first + begin) * _HUGE_BYTES, (first + end) * _HUGE_BYTES


def _library() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None
