"""The first lines of a worker process of local mode: `python -m tierflow_local.launch PARENT WORKER_ARGUMENTS...`.

Ties the process to its parent's life, then runs the worker's program in it.
"""

import ctypes
import os
import signal
import sys
from typing import Final

_SET_PARENT_DEATH_SIGNAL: Final = 1  # PR_SET_PDEATHSIG of prctl(2)


def die_with(parent: int) -> None:
    """Has the kernel kill this process when its parent is gone, however that ended.

    Args:
        parent: Process id of the parent. Where it is gone already, this process ends at once.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def main() -> int:
    """Runs the worker."""
    die_with(int(sys.argv[1]))
    from tierflow_worker.main import main as worker

    return worker(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
