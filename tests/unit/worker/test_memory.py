"""What workers ask of the system for their memory."""

import subprocess
import sys
from pathlib import Path

import pytest

_PERMISSION = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_SIZE = 64 * 2**20
_PROGRAM = f"""
from pathlib import Path
from tierflow_worker.memory import use_huge_pages

def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

full = bytearray(b"x") * {_SIZE}
reserved = bytearray({_SIZE})  # zeroed by the system when it is used, which it is not
before = resident()
moved = sum(use_huge_pages())
print(moved, resident() - before, set(full) == {{120}})
"""


@pytest.mark.skipif(not _PERMISSION.exists() or "[never]" in _PERMISSION.read_text(), reason="no huge pages here")
def test_memory_that_is_in_use_gets_huge_pages_and_what_is_only_reserved_does_not() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], check=True, capture_output=True, text=True, timeout=60)
    moved, grown, kept = done.stdout.split()
    assert int(moved) >= _SIZE - 2 * 2**21
    assert int(grown) < _SIZE / 4
    assert kept == "True"
