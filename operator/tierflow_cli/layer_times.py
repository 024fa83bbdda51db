"""Where a plan's layer times come from: an estimate, a measurement here and now, or a file."""

from pathlib import Path

import msgspec

from tierflow.errors import InvalidInputError
from tierflow.model.model import Model
from tierflow.profile import Profile
from tierflow_cli.console import progress
from tierflow_cli.writing import write_text


def layer_times(model: Model, source: str) -> Profile:
    """The profile of a model.

    Args:
        model: The model.
        source: `estimate`, `measure`, or the path of a file that `write_profile` wrote.

    Raises:
        InvalidInputError: where the file is none, or belongs to another model.
        TierflowError: see `tierflow_worker.profiling.measure_profile`.
    """
    if source == "estimate":
        from tierflow.estimate import estimate_profile

        return estimate_profile(model.graph, model=model.identity)
    if source == "measure":
        return measured(model)
    return read_profile(Path(source), model)


def measured(model: Model, threads: int = 1) -> Profile:
    """Measures a model on this machine, with progress on a terminal."""
    from tierflow_worker.profiling import measure_profile

    with progress("measuring layer times") as tell:
        return measure_profile(model, threads=threads, progress=tell)


def write_profile(profile: Profile, path: Path) -> None:
    """Writes a profile to be read by `read_profile`.

    Raises:
        InvalidInputError: where the file can't be written.
    """
    write_text(path, msgspec.json.format(msgspec.json.encode(profile)).decode() + "\n", option="--output")


def read_profile(path: Path, model: Model) -> Profile:
    """Reads the profile of `model`.

    Raises:
        InvalidInputError: where the file can't be read, is no profile, or belongs to another model.
    """
    try:
        profile = msgspec.json.decode(path.read_bytes(), type=Profile)
    except OSError as error:
        raise InvalidInputError(
            f"--profile: {path} can't be read: {error.strerror}; give estimate, measure or a file that "
            "`tierflow profile MODEL --output FILE` wrote",
            subject="--profile",
        ) from error
    except msgspec.DecodeError as error:
        raise InvalidInputError(
            f"--profile: {path} is no profile: {error}; make one with `tierflow profile MODEL --output FILE`",
            subject="--profile",
        ) from error
    if profile.model != model.identity:
        raise InvalidInputError(
            f"--profile: {path} belongs to another model ({profile.model}, not {model.identity}); make one with "
            "`tierflow profile MODEL --output FILE`",
            subject="--profile",
        )
    return profile
