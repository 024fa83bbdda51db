"""Flags and environment variables of the operator."""

from pathlib import Path

import pytest

from tierflow_operator.settings import read_settings


def test_defaults_serve_all_namespaces_with_a_lease() -> None:
    settings = read_settings([], {})
    assert settings.namespaces == ()
    assert settings.leader_elect
    assert settings.kubeconfig is None
    assert (settings.workers, settings.lease_seconds, settings.resync_seconds) == (4, 15, 300)
    assert settings.lease_namespace == "default"


def test_a_flag_wins_over_the_environment() -> None:
    environment = {"TIERFLOW_OPERATOR_WORKERS": "7", "TIERFLOW_OPERATOR_LOG_FORMAT": "text"}
    settings = read_settings(["--workers", "2"], environment)
    assert settings.workers == 2
    assert settings.log_format == "text"


def test_a_flag_that_may_be_repeated_replaces_what_the_environment_lists() -> None:
    environment = {"TIERFLOW_OPERATOR_NAMESPACE": "vision, audio"}
    assert read_settings([], environment).namespaces == ("vision", "audio")
    given = read_settings(["--namespace", "one", "--namespace", "two", "--namespace", "one"], environment)
    assert given.namespaces == ("one", "two")


@pytest.mark.parametrize(("given", "on"), [("false", False), ("0", False), ("true", True), ("", True)])
def test_the_environment_switches_the_lease(given: str, on: bool) -> None:
    assert read_settings([], {"TIERFLOW_OPERATOR_LEADER_ELECT": given}).leader_elect is on


def test_each_replica_has_an_identity_of_its_own_that_tells_its_pod() -> None:
    one, other = (read_settings([], {"POD_NAME": "operator-0"}) for _ in range(2))
    assert one.identity.startswith("operator-0_")
    assert one.identity != other.identity


def test_a_kubeconfig_may_be_given_from_home() -> None:
    assert read_settings(["--kubeconfig", "~/other"], {}).kubeconfig == Path.home() / "other"


@pytest.mark.parametrize(
    ("arguments", "environment", "complaint"),
    [
        (["--workers", "0"], {}, "--workers"),
        ([], {"TIERFLOW_OPERATOR_METRICS_PORT": "http"}, "--metrics-port"),
        (["--prometheus-url", "prometheus:9090"], {}, "--prometheus-url"),
        (["--lease-name", " "], {}, "--lease-name"),
        (["--lease-seconds", "0"], {}, "--lease-seconds"),
        (["--resync-seconds", "nan"], {}, "--resync-seconds"),
        ([], {"TIERFLOW_OPERATOR_LEADER_ELECT": "maybe"}, "TIERFLOW_OPERATOR_LEADER_ELECT"),
        (["--image-pull-policy", "Sometimes"], {}, "--image-pull-policy"),
        (["--log-level", "loud"], {}, "--log-level"),
        (["--worker", "2"], {}, "--worker"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(
    arguments: list[str], environment: dict[str, str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        read_settings(arguments, environment)
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


def test_the_help_has_examples_that_are_valid(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read_settings(["--help"], {}, program="tierflow operator")
    assert ended.value.code == 0
    examples = [
        line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  tierflow operator ")
    ]
    assert len(examples) == 3
    for example in examples:
        read_settings(example[2:], {})
