"""The program `tierflow-worker`.

Imports little at its top: loading the segment begins before the servers' libraries are imported.
"""

import os
import sys
import time
from collections.abc import Sequence
from typing import Final

from tierflow import descriptor as descriptors
from tierflow.descriptor import WorkerDescriptor
from tierflow.errors import InvalidInputError, TierflowError
from tierflow_worker.logs import Log, adopt_libraries
from tierflow_worker.memory import keep_freed_memory
from tierflow_worker.segments import LoadedSegment, SegmentLoader, SegmentStore
from tierflow_worker.settings import Settings, read_settings

_BAD_INPUT: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a worker until a signal; returns its exit code."""
    began = time.perf_counter()
    settings = read_settings(sys.argv[1:] if arguments is None else arguments, os.environ)
    log = Log(settings.log_level)
    try:
        descriptor = _read_descriptor(settings)
        log = log.bind(pipeline=descriptor.pipeline, tier=str(descriptor.tier))
        _run(settings, descriptor, log, began)
    except (TierflowError, OSError) as error:
        log.error("failed", error=str(error))  # noqa: TRY400 - not logging's; the message says it all
        return _BAD_INPUT
    return 0


def _read_descriptor(settings: Settings) -> WorkerDescriptor:
    try:
        content = settings.descriptor.read_bytes()
    except OSError as error:
        raise InvalidInputError(
            f"--descriptor: {settings.descriptor} can't be read: {error.strerror}", subject="--descriptor"
        ) from error
    return descriptors.decode(content)


def _run(settings: Settings, descriptor: WorkerDescriptor, log: Log, began: float) -> None:
    keep_freed_memory()
    loader = SegmentLoader(descriptor, settings.cache_dir, threads=settings.threads, log=log)

    def load(place: int) -> LoadedSegment:
        return loader.load(descriptor.segments[place])

    store = SegmentStore(descriptor.segments, load, idle_seconds=settings.drain_seconds)
    if descriptor.segments:
        log.info("loading segment", segment=descriptor.segments[0].id, layers=descriptor.segments[0].layers)
        store.begin(0)
    try:
        _serve(settings, descriptor, store, loader, log, began)
    finally:
        store.close()
        loader.stop()


def _serve(
    settings: Settings,
    descriptor: WorkerDescriptor,
    store: SegmentStore,
    loader: SegmentLoader,
    log: Log,
    began: float,
) -> None:
    adopt_libraries(log)
    import asyncio

    from tierflow_worker.service import Worker

    async def live() -> None:
        await Worker(settings, descriptor, store, loader, log).run(began)

    asyncio.run(live())


if __name__ == "__main__":
    sys.exit(main())
