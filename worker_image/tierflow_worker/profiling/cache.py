"""Keeps measured profiles on disk: a model on a machine is measured once."""

import hashlib
import os
from pathlib import Path

from tierflow.errors import InvalidInputError
from tierflow.model.model import Model
from tierflow.model.opening import default_cache
from tierflow.profile import Profile, check_covers, decode, encode
from tierflow_worker.profiling.measure import Progress, machine_name, measure_profile

_VERSION = 2  # of how profiles are measured; older ones are measured again


def cached_profile(
    model: Model,
    *,
    threads: int = 1,
    cache_dir: Path | None = None,
    refresh: bool = False,
    progress: Progress | None = None,
) -> Profile:
    """The measured profile of `model` on this machine, from the cache where it is there.

    It is kept by the model's identity, the processor, the number of threads and ONNX Runtime's version.

    Args:
        model: The whole model.
        threads: Threads within a layer.
        cache_dir: By default `$XDG_CACHE_HOME/tierflow`.
        refresh: Measures in any case, and keeps the result.
        progress: Is told how far the measurement is.

    Raises:
        UnsupportedError: where the model has an operator that ONNX Runtime lacks.
        InvalidModelError: where ONNX Runtime can't load the model.
    """
    path = (cache_dir or default_cache()) / "profiles" / f"{_key(model, threads)}.json"
    known = None if refresh else _read(path, model)
    if known is not None:
        return known
    profile = measure_profile(model, threads=threads, progress=progress)
    try:
        _write(path, encode(profile))
    except OSError:
        return profile  # a cache that can't be written to costs time, nothing else
    return profile


def _key(model: Model, threads: int) -> str:
    parts = (str(_VERSION), model.identity, machine_name(threads))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _read(path: Path, model: Model) -> Profile | None:
    try:
        profile = decode(path.read_bytes())
        check_covers(model.graph, profile)
    except (OSError, InvalidInputError):
        return None
    return profile if profile.model == model.identity else None


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_bytes(data)
    draft.replace(path)
