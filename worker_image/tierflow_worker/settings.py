"""The worker's settings: flags, each with an environment variable that gives its default."""

import argparse
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tierflow.errors import InvalidInputError
from tierflow.units import parse_bytes
from tierflow_worker.logs import LEVELS

_EPILOGUE: Final = """
Every flag can be given as an environment variable as well: --grpc-port as TIERFLOW_GRPC_PORT. A flag wins.
Exit codes: 0 drained after SIGTERM or SIGINT, 1 failed while serving, 2 bad usage, descriptor, model or port.

example:
  tierflow-worker --descriptor device.json --grpc-port 8001 --rest-port 8000
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a worker runs; `--help` explains each. Sizes in bytes, times in seconds."""

    descriptor: Path
    host: str
    grpc_port: int
    rest_port: int
    threads: int
    queue: int
    in_flight: int
    max_message_bytes: int
    drain_seconds: float
    patience_seconds: float
    speed: float
    cache_dir: Path
    approval_file: Path | None
    log_level: str


def read_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """The settings that the command line and the environment give.

    Raises:
        SystemExit: with code 2 and a message on standard error where a flag is wrong, with 0 after `--help`.
    """
    parser = _parser(environment)
    values = vars(parser.parse_args(list(arguments)))
    if values["descriptor"] is None:
        parser.error("--descriptor is missing (or the environment variable TIERFLOW_DESCRIPTOR)")
    if values["speed"] < 1:
        # What a slower tier takes is told from the processor time of the computing thread: it has to do all of it.
        values["threads"] = 1
    return Settings(**values)


def default_cache_dir(environment: Mapping[str, str]) -> Path:
    """Where models and segments are kept: `tierflow` in the user's cache directory."""
    base = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME", "/tmp"), ".cache")  # noqa: S108 - no home
    return Path(base, "tierflow")


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tierflow-worker",
        description="Serves one tier's segments of a model over the Open Inference Protocol v2.",
        epilog=_EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )

    def add(flag: str, default: Any, kind: Any, text: str, **more: Any) -> None:
        variable = "TIERFLOW_" + flag.removeprefix("--").replace("-", "_").upper()
        # argparse converts a default that is a string as it does a flag's value, and names the flag where that fails.
        given = environment.get(variable) or default
        parser.add_argument(flag, default=given, type=kind, help=text, **more)

    add("--descriptor", None, Path, "file that says which segments to serve (required)", metavar="FILE")
    add("--host", "0.0.0.0", str, "address to listen on (%(default)s)", metavar="ADDRESS")  # noqa: S104 - it serves a pod
    add("--grpc-port", "8001", _port, "port of gRPC; 0 takes a free one and logs it (%(default)s)", metavar="PORT")
    add("--rest-port", "8000", _port, "port of REST and /metrics; 0 as above (%(default)s)", metavar="PORT")
    add("--threads", _processors(), _positive, "threads within a layer (%(default)s, the processors)", metavar="N")
    add("--queue", "16", _not_negative, "requests that may wait for the segment (%(default)s)", metavar="N")
    add("--in-flight", "128", _positive, "requests that may be under way in all (%(default)s)", metavar="N")
    add("--max-message-bytes", "64Mi", _size, "largest message, either way (%(default)s)", metavar="SIZE")
    add(
        "--drain-seconds", "30", _seconds,
        "time for requests under way after SIGTERM, and until an idle previous segment is unloaded (%(default)s)",
        metavar="SECONDS",
    )  # fmt: skip
    add(
        "--patience-seconds", "10", _seconds,
        "how long to try to reach the next tier, deadline permitting (%(default)s)", metavar="SECONDS",
    )  # fmt: skip
    add(
        "--speed", "1", _speed,
        "emulate a tier this many times as fast, at most 1: a computation of t seconds takes t/speed, in one thread; "
        "for tiers that share a machine, as in local mode (%(default)s)",
        metavar="X",
    )  # fmt: skip
    add("--cache-dir", str(default_cache_dir(environment)), Path, "where models are kept (%(default)s)", metavar="DIR")
    add(
        "--approval-file", None, Path,
        "stay unready until this file is there, whatever it holds; requests that come are answered (none: ready once "
        "the segment is loaded)", metavar="FILE",
    )  # fmt: skip
    add("--log-level", "info", str, f"one of {', '.join(LEVELS)} (%(default)s)", choices=tuple(LEVELS), metavar="LEVEL")
    return parser


def _processors() -> str:
    return str(len(os.sched_getaffinity(0)))


def _number(text: str, kind: type[int] | type[float], lowest: float, highest: float, wanted: str) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = kind(-1)
    if not lowest <= value <= highest or math.isnan(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return value


def _port(text: str) -> int:
    return int(_number(text, int, 0, 65535, "a port from 0 to 65535"))


def _positive(text: str) -> int:
    return int(_number(text, int, 1, 2**31, "a whole number from 1 on"))


def _not_negative(text: str) -> int:
    return int(_number(text, int, 0, 2**31, "a whole number from 0 on"))


def _seconds(text: str) -> float:
    return float(_number(text, float, 0, 86_400, "a number of seconds from 0 on"))


def _speed(text: str) -> float:
    return float(_number(text, float, 1e-4, 1, "a speed from 0.0001 to 1; a machine can't be made faster"))


def _size(text: str) -> int:
    try:
        size = parse_bytes(text, field="--max-message-bytes")
    except InvalidInputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return int(_number(str(size), int, 1024, 2**31 - 1, "a size from 1Ki to 2Gi"))
