"""The operator's settings: flags, each with an environment variable that gives its default."""

import argparse
import math
import socket
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tierflow_operator.logs import FORMATS, LEVELS
from tierflow_operator.pods import DEFAULT_IMAGE

_PREFIX: Final = "TIERFLOW_OPERATOR_"
_POD_NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_PULL_POLICIES: Final = ("", "Always", "IfNotPresent", "Never")
_EPILOGUE: Final = """
Every flag can be given as an environment variable as well: --metrics-port as TIERFLOW_OPERATOR_METRICS_PORT, flags that
may be repeated with commas between their values, --no-leader-elect as TIERFLOW_OPERATOR_LEADER_ELECT=false. Flags win.
Exit codes: 0 ended by SIGTERM or SIGINT, 1 failed while running or lost its lease, 2 bad usage, no cluster or no CRD.

examples:
  %(prog)s --kubeconfig ~/.kube/config --no-leader-elect --log-format text
  %(prog)s --context kind-tierflow --namespace vision --namespace audio
  %(prog)s --prometheus-url http://prometheus.monitoring:9090 --worker-image registry.example/tierflow-worker:0.1.0
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """How an operator runs; `--help` explains each. Times in seconds.

    Attributes:
        kubeconfig: None for the default: the pod's account inside a cluster, else $KUBECONFIG, else ~/.kube/config.
        context: "" for the kubeconfig's current one.
        namespaces: Empty for all.
        image_pull_policy: "" for Kubernetes' own default.
        prometheus_url: "" for none; see `prometheus.PrometheusSettings` for what goes with it.
        identity: This replica's name, in the Lease and in events; unlike any other's.
    """

    kubeconfig: Path | None
    context: str
    namespaces: tuple[str, ...]
    worker_image: str
    image_pull_policy: str
    image_pull_secrets: tuple[str, ...]
    prometheus_url: str
    prometheus_window_seconds: int
    prometheus_timeout_seconds: float
    prometheus_token_file: Path | None
    prometheus_ca_file: Path | None
    metrics_port: int
    resync_seconds: float
    workers: int
    leader_elect: bool
    lease_namespace: str
    lease_name: str
    lease_seconds: int
    cache_dir: Path
    log_level: str
    log_format: str
    request_timeout_seconds: float
    identity: str


def read_settings(
    arguments: Sequence[str], environment: Mapping[str, str], *, program: str = "tierflow-operator"
) -> Settings:
    """The settings that the command line and the environment give.

    Raises:
        SystemExit: with code 2 and a message on standard error where a flag is wrong, with 0 after `--help`.
    """
    values: dict[str, Any] = vars(_parser(environment, program).parse_args(list(arguments)))
    for repeated in ("namespaces", "image_pull_secrets"):
        values[repeated] = tuple(dict.fromkeys(values[repeated]))
    host = environment.get("POD_NAME") or socket.gethostname()
    return Settings(**values, identity=f"{host}_{uuid.uuid4().hex[:8]}")


def _parser(environment: Mapping[str, str], program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="Watches InferencePipelines and keeps their workers as their plans want them.",
        epilog=_EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    flags = _Flags(parser, environment)
    _add_cluster(flags)
    _add_workers(flags)
    _add_measurements(flags)
    _add_process(flags, environment)
    return parser


class _Flags:
    """Adds flags whose defaults the environment may give."""

    def __init__(self, parser: argparse.ArgumentParser, environment: Mapping[str, str]) -> None:
        self._parser = parser
        self._environment = environment

    def given(self, flag: str) -> str:
        """What the environment says of a flag; "" for nothing."""
        return self._environment.get(_PREFIX + flag.removeprefix("--").replace("-", "_").upper(), "").strip()

    def one(self, flag: str, default: str, kind: Any, text: str, **more: Any) -> None:
        """A flag with one value. A default that is text is converted, and complained about, like a flag's value."""
        self._parser.add_argument(flag, default=self.given(flag) or default, type=kind, help=text, **more)

    def many(self, flag: str, name: str, text: str, **more: Any) -> None:
        """A flag that may be repeated; once it is, the environment's values don't count."""
        default = [value.strip() for value in self.given(flag).split(",") if value.strip()]
        self._parser.add_argument(flag, dest=name, action=_Append, default=default, help=text, **more)

    def switch(self, flag: str, text: str, *, default: bool) -> None:
        """A flag with --no-."""
        given = self.given(flag).lower()
        if given not in ("", "true", "false", "1", "0"):
            self._parser.error(f"{_PREFIX}{flag[2:].replace('-', '_').upper()}: {given!r} is neither true nor false")
        on = given in ("true", "1") if given else default
        self._parser.add_argument(flag, default=on, action=argparse.BooleanOptionalAction, help=text)


class _Append(argparse.Action):
    """Collects values; the first one given replaces the default."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        collected = getattr(namespace, self.dest)
        fresh = collected is self.default
        setattr(namespace, self.dest, [values] if fresh else [*collected, values])


def _add_cluster(flags: _Flags) -> None:
    flags.one(
        "--kubeconfig", "", _path, "file that says where the cluster is (in a pod its own account, else $KUBECONFIG, "
        "else ~/.kube/config)", metavar="FILE",
    )  # fmt: skip
    flags.one("--context", "", str, "context of the kubeconfig (its current one)", metavar="NAME")
    flags.many("--namespace", "namespaces", "serve this namespace; may be repeated (all namespaces)", metavar="NAME")
    flags.one(
        "--request-timeout-seconds", "30", _seconds, "bound on each request to the API server (%(default)s)",
        metavar="SECONDS",
    )  # fmt: skip


def _add_workers(flags: _Flags) -> None:
    flags.one(
        "--worker-image", DEFAULT_IMAGE, _text, "the workers' image, where a pipeline names none (%(default)s)",
        metavar="IMAGE",
    )  # fmt: skip
    flags.one(
        "--image-pull-policy", "", str, "of the workers: Always, IfNotPresent or Never (Kubernetes' default)",
        choices=_PULL_POLICIES, metavar="POLICY",
    )  # fmt: skip
    flags.many(
        "--image-pull-secret", "image_pull_secrets", "Secret of the pipeline's namespace to pull with; may be repeated",
        metavar="NAME",
    )  # fmt: skip


def _add_measurements(flags: _Flags) -> None:
    flags.one(
        "--prometheus-url", "", _url, "where measurements are read, where a pipeline names none (none)", metavar="URL"
    )
    flags.one(
        "--prometheus-window-seconds", "120", _window, "how far back samples are read: three scrape intervals at least "
        "(%(default)s)", metavar="SECONDS",
    )  # fmt: skip
    flags.one("--prometheus-timeout-seconds", "5", _seconds, "bound on each query (%(default)s)", metavar="SECONDS")
    flags.one(
        "--prometheus-token-file", "", _path, "bearer token, sent to --prometheus-url alone and read anew each time "
        "(none)", metavar="FILE",
    )  # fmt: skip
    flags.one(
        "--prometheus-ca-file", "", _path, "authority that signed the certificate of --prometheus-url (the system's)",
        metavar="FILE",
    )  # fmt: skip


def _add_process(flags: _Flags, environment: Mapping[str, str]) -> None:
    flags.one(
        "--metrics-port", "8080", _port, "port of /metrics, /healthz and /readyz; 0 takes a free one and logs it "
        "(%(default)s)", metavar="PORT",
    )  # fmt: skip
    flags.one(
        "--resync-seconds", "300", _seconds, "each pipeline is looked at this often without any event (%(default)s)",
        metavar="SECONDS",
    )  # fmt: skip
    flags.one("--workers", "4", _positive, "pipelines that are worked on at a time (%(default)s)", metavar="N")
    flags.switch("--leader-elect", "of several replicas, only the holder of a Lease works (yes)", default=True)
    flags.one(
        "--lease-namespace", _own_namespace(), _text, "namespace of the Lease (the pod's own, else default)",
        metavar="NAME",
    )  # fmt: skip
    flags.one("--lease-name", "tierflow-operator", _text, "name of the Lease (%(default)s)", metavar="NAME")
    flags.one(
        "--lease-seconds", "15", _lease_seconds, "for how long a holder that is silent is believed (%(default)s)",
        metavar="SECONDS",
    )  # fmt: skip
    flags.one(
        "--cache-dir", _cache_dir(environment), Path, "where graphs of models are kept (%(default)s)", metavar="DIR"
    )
    flags.one("--log-level", "info", str, f"one of {', '.join(LEVELS)} (%(default)s)", choices=LEVELS, metavar="LEVEL")
    flags.one("--log-format", "json", str, "json or text (%(default)s)", choices=FORMATS, metavar="FORMAT")


def _own_namespace() -> str:
    try:
        return _POD_NAMESPACE_FILE.read_text().strip() or "default"
    except OSError:
        return "default"


def _cache_dir(environment: Mapping[str, str]) -> str:
    base = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME", "/tmp"), ".cache")  # noqa: S108 - no home
    return str(Path(base, "tierflow"))


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
    return int(_number(text, int, 1, 256, "a whole number from 1 to 256"))


def _seconds(text: str) -> float:
    return float(_number(text, float, 0.1, 86_400, "a number of seconds from 0.1 to 86400"))


def _window(text: str) -> int:
    return int(_number(text, int, 5, 3600, "a whole number of seconds from 5 to 3600"))


def _lease_seconds(text: str) -> int:
    return int(_number(text, int, 1, 3600, "a whole number of seconds from 1 to 3600"))


def _text(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty")
    return text.strip()


def _url(text: str) -> str:
    if text and not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} doesn't start with http:// or https://")
    return text.rstrip("/")


def _path(text: str) -> Path | None:
    return Path(text).expanduser() if text else None
