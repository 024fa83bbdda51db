"""The program `tierflow-check`: whether a chain of workers answers as the whole model does, before requests reach it.

It computes the whole model's answer to the check input, asks each worker for its own part of it, and compares. Its
verdict goes to standard output and, in a pod, to the termination message. Like the worker it imports little at its top:
the whole model is on its way before the libraries are there that ask the workers.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from tierflow import descriptor as descriptors
from tierflow.descriptor import WorkerDescriptor
from tierflow.errors import (
    DeadlineExceededError,
    InvalidInputError,
    OverloadedError,
    TierflowError,
    UnknownBoundaryError,
    UnreachableError,
)
from tierflow.protocol.messages import InferTensor
from tierflow.tiers import Tier
from tierflow_worker.reference import Reference
from tierflow_worker.settings import default_cache_dir

Result = TypeVar("Result")

HOLDS: Final = 0
DIFFERS: Final = 1
UNCHECKED: Final = 2
"""Exit codes; also of bad usage."""

TERMINATION_LOG: Final = Path("/dev/termination-log")
MOST_BYTES: Final = 4096
"""What Kubernetes keeps of a termination message."""

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_DESCRIPTOR_FILE: Final = "descriptor.json"
_LOOK_SECONDS: Final = 0.05
_LARGEST: Final = sys.float_info.max  # JSON has no infinity
_NO_ANSWER: Final = (UnreachableError, UnknownBoundaryError, OverloadedError, DeadlineExceededError)

_EPILOGUE: Final = """
Prints {"holds", "bitIdentical", "largestRelativeDifference", "tiers", "message"} as JSON.
Exit codes: 0 the answer holds, 1 it doesn't, 2 it could not be checked (a worker did not answer, bad usage, no model).

example:
  tierflow-check --descriptor device=/plan/device --descriptor cloud=/plan/cloud \\
      --worker device=10.0.0.7:8001 --worker cloud=10.0.2.3:8001

Workers that aren't known yet may be told in a file meanwhile, all at once: device=10.0.0.7:8001 cloud=10.0.2.3:8001
"""


class Verdict(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What the check found.

    Attributes:
        holds: Whether the chain's answer is the whole model's, within `tierflow_worker.verification.TOLERANCE`.
        bit_identical: Whether it is, bit by bit.
        largest_relative_difference: Over all outputs, as `tierflow_worker.verification.relative_difference` has it; 1
            where there was nothing to compare.
        tiers: Those that compute or relay a part, from the device on.
        message: What was found, or why nothing was, for a person.
    """

    holds: bool
    bit_identical: bool = False
    largest_relative_difference: float = 1.0
    tiers: tuple[Tier, ...] = ()
    message: str


@dataclass(frozen=True, slots=True)
class Settings:
    """How to check; `--help` explains each. Workers are given, or the file that they will be in."""

    descriptors: Mapping[Tier, Path]
    workers: Mapping[Tier, str] | Path
    timeout_seconds: float
    threads: int
    cache_dir: Path
    termination_log: Path | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks a chain; returns the exit code."""
    began = time.monotonic()
    settings = read_settings(sys.argv[1:] if arguments is None else arguments, os.environ)
    for number in _STOP_SIGNALS:
        signal.signal(number, _stop)
    reference: Reference | None = None
    code, verdict = UNCHECKED, Verdict(holds=False, message="not checked")
    try:
        known = {tier: _read_descriptor(tier, path) for tier, path in settings.descriptors.items()}
        reference = Reference(_agreed(known), settings.cache_dir, threads=settings.threads)
        code, verdict = _check(settings, known, reference, began + settings.timeout_seconds)
    except (TierflowError, OSError) as error:
        verdict = Verdict(holds=False, message=f"could not be checked: {error}")
    except Exception as error:  # the interpreter's own exit code would say that the answer doesn't hold
        verdict = Verdict(holds=False, message=f"could not be checked: {error!r}")
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # there is a verdict, and writing it takes no time
    finished = reference is None or reference.stop()
    _write(verdict, settings.termination_log)
    if not finished:
        os._exit(code)  # a computation that nobody waits for any more can't be ended otherwise
    return code


def _stop(*_: object) -> None:
    raise UnreachableError("the check was asked to stop")


def _check(
    settings: Settings, known: Mapping[Tier, WorkerDescriptor], reference: Reference, deadline: float
) -> tuple[int, Verdict]:
    import asyncio

    from tierflow_worker.own_parts import drive, route_of
    from tierflow_worker.tensors import from_array
    from tierflow_worker.verification import sample_tensors

    route = route_of(known)
    tiers = tuple(stop.tier for stop in route)
    described = next(iter(known.values())).inputs
    arrays = sample_tensors(described)
    inputs = {tensor.name: from_array(tensor.name, tensor.dtype, arrays[tensor.name]) for tensor in described}
    reference.give(inputs)

    async def pause(seconds: float) -> None:
        if reference.answer.done():
            reference.answer.result()  # raises at once where no answer can be compared
        await asyncio.sleep(seconds)

    async def checked() -> tuple[int, Verdict]:
        workers = settings.workers
        if isinstance(workers, Path):
            workers = await _told_workers(workers, deadline, pause)
        _check_workers(workers, tiers)
        problem: TierflowError | None = None
        answer: dict[str, InferTensor] = {}
        try:
            answer = await drive(inputs, route, workers, deadline=deadline, pause=pause)
        except _NO_ANSWER:
            raise
        except TierflowError as error:
            if reference.answer.done() and error is reference.answer.exception():
                raise
            problem = error
        whole = asyncio.wrap_future(reference.answer)
        done, _ = await asyncio.wait((whole,), timeout=max(deadline - time.monotonic(), 0.0))
        if not done:
            raise DeadlineExceededError(
                f"the whole model's answer was not there within {settings.timeout_seconds:g} s; raise --timeout-seconds"
            )
        expected = whole.result()
        if problem is not None:
            return DIFFERS, Verdict(holds=False, tiers=tiers, message=str(problem))
        verdict = compare(answer, expected, tiers)
        return HOLDS if verdict.holds else DIFFERS, verdict

    return asyncio.run(_until_stopped(checked()))


async def _told_workers(file: Path, deadline: float, pause: Callable[[float], Awaitable[None]]) -> dict[Tier, str]:
    """The workers in a file, once they are there."""
    while True:
        try:
            told = file.read_text().split()
        except FileNotFoundError:
            told = []
        if told:
            break
        if time.monotonic() > deadline:
            raise UnreachableError(f"--workers-file: {file} told no workers in time", subject="--workers-file")
        await pause(_LOOK_SECONDS)
    try:
        return _by_tier(told)
    except ValueError as error:
        raise InvalidInputError(f"--workers-file: {file}: {error}", subject="--workers-file") from error


async def _until_stopped(checked: Coroutine[Any, Any, Result]) -> Result:
    """What a coroutine returns, unless a signal to stop comes before."""
    import asyncio

    checking = asyncio.ensure_future(checked)
    for number in _STOP_SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, checking.cancel)
    try:
        return await checking
    except asyncio.CancelledError:
        _stop()
        raise


def compare(answer: Mapping[str, InferTensor], expected: Mapping[str, InferTensor], tiers: tuple[Tier, ...]) -> Verdict:
    """Compares a chain's answer with the whole model's; NaN in the same places is equal."""
    from tierflow_worker.runtime import numpy_dtype
    from tierflow_worker.tensors import to_array
    from tierflow_worker.verification import TOLERANCE, relative_difference, same_bytes

    worst, largest, same = "", 0.0, True
    for name, tensor in expected.items():
        if name not in answer:
            raise InvalidInputError(f"no tier's descriptor has the output {name} among its results", subject=name)
        left, right = (to_array(one, numpy_dtype(one.dtype)) for one in (answer[name], tensor))
        same = same and same_bytes(left, right)
        difference = relative_difference(left, right)
        if not difference <= largest:
            worst, largest = name, min(difference, _LARGEST)
    among = ", ".join(tiers)
    if same:
        message = f"the answer of {among} is the whole model's, bit by bit"
    elif largest <= TOLERANCE:
        message = f"the answer of {among} is the whole model's within {largest:.2g} ({worst or 'signs of zero'})"
    else:
        message = f"output {worst} of {among} differs from the whole model's by {largest:.2g}, more than {TOLERANCE:g}"
    return Verdict(
        holds=largest <= TOLERANCE,
        bit_identical=same,
        largest_relative_difference=largest,
        tiers=tiers,
        message=message,
    )


def read_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """The settings that the command line gives.

    Raises:
        SystemExit: with code 2 and a message on standard error where a flag is wrong, with 0 after `--help`.
    """
    parser = argparse.ArgumentParser(
        prog="tierflow-check",
        description="Checks that a chain of workers answers as the whole model does, each asked for its own part.",
        epilog=_EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--descriptor", action="append", required=True, metavar="TIER=PATH",
        help=f"a tier's descriptor, a file or a directory with {_DESCRIPTOR_FILE}; once per tier",
    )  # fmt: skip
    parser.add_argument(
        "--worker", action="append", metavar="TIER=HOST:PORT",
        help="a tier's worker; once per tier that has a segment",
    )  # fmt: skip
    parser.add_argument(
        "--workers-file", type=Path, default=None, metavar="FILE",
        help="in place of --worker: where they will be, as words TIER=HOST:PORT; waits until there are some",
    )  # fmt: skip
    parser.add_argument(
        "--timeout-seconds", type=float, default=60.0, metavar="SECONDS", help="for the whole check (%(default)g)"
    )
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="threads within a layer, as the workers have (%(default)s)"
    )
    parser.add_argument("--cache-dir", type=Path, default=default_cache_dir(environment), metavar="DIR",
                        help="where models are kept (%(default)s)")  # fmt: skip
    parser.add_argument(
        "--termination-log", type=Path, default=None, metavar="FILE",
        help=f"where to write the verdict as well ({TERMINATION_LOG}, where there is one)",
    )  # fmt: skip
    given = parser.parse_args(list(arguments))
    if not 0 < given.timeout_seconds < float("inf"):
        parser.error("--timeout-seconds must be a number of seconds above 0")
    if given.threads < 1:
        parser.error("--threads must be 1 or more")
    if bool(given.worker) == bool(given.workers_file):
        parser.error("give either --worker, once per tier, or --workers-file")
    log = given.termination_log or (TERMINATION_LOG if os.access(TERMINATION_LOG, os.W_OK) else None)
    return Settings(
        descriptors={tier: Path(text) for tier, text in _flag(parser, "--descriptor", given.descriptor).items()},
        workers=given.workers_file or _flag(parser, "--worker", given.worker),
        timeout_seconds=given.timeout_seconds,
        threads=given.threads,
        cache_dir=given.cache_dir,
        termination_log=log,
    )


def _flag(parser: argparse.ArgumentParser, flag: str, texts: Sequence[str]) -> dict[Tier, str]:
    try:
        return _by_tier(texts)
    except ValueError as error:
        parser.error(f"{flag}: {error}")


def _by_tier(texts: Sequence[str]) -> dict[Tier, str]:
    found: dict[Tier, str] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in list(Tier) or not value:
            raise ValueError(f"{text!r} is not TIER=VALUE with one of the tiers {', '.join(Tier)}")
        if Tier(name) in found:
            raise ValueError(f"the tier {name} is given twice")
        found[Tier(name)] = value
    return found


def _read_descriptor(tier: Tier, path: Path) -> WorkerDescriptor:
    flag = f"--descriptor {tier}"
    file = path / _DESCRIPTOR_FILE if path.is_dir() else path
    try:
        known = descriptors.decode(file.read_bytes())
    except OSError as error:
        raise InvalidInputError(f"{flag}: {file} can't be read: {error.strerror}", subject=flag) from error
    if known.tier is not tier or known.role != "tier":
        raise InvalidInputError(f"{flag}: {file} describes a {known.tier} worker of role {known.role}", subject=flag)
    return known


def _agreed(known: Mapping[Tier, WorkerDescriptor]) -> WorkerDescriptor:
    """One of the descriptors, after checking that all are of the same model."""
    first, *others = known.values()
    for other in others:
        if (other.pipeline, other.model, other.outputs) != (first.pipeline, first.model, first.outputs):
            raise InvalidInputError(
                f"the descriptors of {first.tier} and {other.tier} are of different pipelines or models: "
                f"{first.pipeline} ({first.model.identity}) and {other.pipeline} ({other.model.identity})",
                subject="--descriptor",
            )
    return first


def _check_workers(workers: Mapping[Tier, str], tiers: Sequence[Tier]) -> None:
    for tier in tiers:
        if tier not in workers:
            raise InvalidInputError(
                f"requests come by the {tier} tier, whose worker is not given: add --worker {tier}=HOST:PORT",
                subject="--worker",
            )


def _write(verdict: Verdict, termination_log: Path | None) -> None:
    text = encode(verdict)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    if termination_log is not None:
        try:
            termination_log.write_text(text)
        except OSError as error:
            sys.stderr.write(f"--termination-log: {termination_log} can't be written: {error.strerror}\n")


def encode(verdict: Verdict) -> str:
    """The verdict as JSON that a termination message holds, its own message shortened where that is too long."""
    data = msgspec.json.encode(verdict)
    while len(data) > MOST_BYTES:
        shorter = verdict.message[: len(verdict.message) * 3 // 4]
        verdict = msgspec.structs.replace(verdict, message=shorter)
        data = msgspec.json.encode(msgspec.structs.replace(verdict, message=f"{shorter}…"))
    return data.decode()


if __name__ == "__main__":
    sys.exit(main())
