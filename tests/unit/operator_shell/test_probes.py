"""The operator's HTTP port."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import urllib3

from tierflow.errors import InvalidInputError
from tierflow_operator.probes import Check, Probes
from tierflow_operator.telemetry import Telemetry


@contextmanager
def serving(**checks: Check) -> Iterator[str]:
    probes = Probes(0, Telemetry(), {f"/{name}": check for name, check in checks.items()})
    probes.start()
    try:
        yield f"http://127.0.0.1:{probes.port}"
    finally:
        probes.stop()


def ask(url: str) -> tuple[int, str]:
    answer = urllib3.request("GET", url, timeout=10, retries=False)
    return answer.status, answer.data.decode()


def test_health_says_what_is_wrong_and_gets_well_again() -> None:
    wrong = "a pipeline has been due for 700 s"
    with serving(healthz=lambda: wrong) as url:
        assert ask(f"{url}/healthz") == (503, f"{wrong}\n")
        wrong = ""
        assert ask(f"{url}/healthz?verbose")[0] == 200


def test_metrics_are_there_and_other_paths_say_what_is() -> None:
    with serving() as url:
        status, text = ask(f"{url}/metrics")
        assert (status, "tierflow_operator_build_info" in text) == (200, True)
        status, text = ask(f"{url}/")
        assert (status, "/metrics" in text) == (404, True)


def test_a_port_that_is_taken_is_refused_by_name() -> None:
    taken = Probes(0, Telemetry(), {})
    try:
        with pytest.raises(InvalidInputError, match="--metrics-port") as refused:
            Probes(taken.port, Telemetry(), {})
        assert refused.value.subject == "--metrics-port"
    finally:
        taken.stop()
