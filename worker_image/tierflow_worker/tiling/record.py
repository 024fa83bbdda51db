"""What became of tiles: metrics, and a log of what went wrong."""

from collections.abc import Mapping

from tierflow_worker.logs import Log
from tierflow_worker.metrics import Metrics


class TileRecord:
    """Counts what became of tiles, and logs what went wrong; see `tierflow_worker.tiling.requests.TileObserver`."""

    def __init__(self, metrics: Metrics, log: Log) -> None:
        self._metrics = metrics
        self._log = log

    def tile_done(self, run: str, worker: str, seconds: float) -> None:
        """Records a tile."""
        self._metrics.observe_tile(run, worker, seconds)

    def tile_failed(self, run: str, worker: str, error: BaseException) -> None:
        """Counts a tile that is computed elsewhere because its worker failed."""
        self._metrics.count_failed_tile(run)
        self._log.warning("tile failed", run=run, worker=worker, error=(str(error) or repr(error))[:300])

    def tile_hedged(self, run: str, worker: str) -> None:
        """Counts a tile that is computed elsewhere as well because it is late."""
        self._metrics.count_hedged_tile(run)
        self._log.info("tile late", run=run, worker=worker)

    def tiles_resized(self, run: str, tiles: Mapping[str, str]) -> None:
        """Logs the sizes that a run's tiles have from now on."""
        self._log.info("tiles resized", run=run, tiles=dict(tiles))
