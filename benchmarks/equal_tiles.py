"""The worker program with tiles of equal sizes, however fast workers are: what sized tiles are measured against."""

import sys
from collections.abc import Sequence

from tierflow_worker.main import main
from tierflow_worker.tiling.speeds import TileSpeeds


class EqualTiles(TileSpeeds):
    """Measures workers, and gives each the same share nevertheless."""

    def shares(self, workers: Sequence[str]) -> tuple[float, ...]:
        """The same share for each."""
        return (1 / len(workers),) * len(workers)


if __name__ == "__main__":
    from tierflow_worker.tiling import sharing

    sharing.TileSpeeds = EqualTiles  # type: ignore[misc]  # the one place where runs get their speeds from
    sys.exit(main())
