"""The worker's flags and environment variables."""

from pathlib import Path

import pytest

from tierflow_worker.settings import read_settings

HOME = {"HOME": "/home/someone"}


def test_only_the_descriptor_has_to_be_given() -> None:
    settings = read_settings(["--descriptor", "d.json"], HOME)
    assert settings.descriptor == Path("d.json")
    assert (settings.grpc_port, settings.rest_port) == (8001, 8000)
    assert settings.max_message_bytes == 64 * 2**20
    assert settings.speed == 1
    assert settings.cache_dir == Path("/home/someone/.cache/tierflow")


def test_the_environment_gives_defaults_and_a_flag_wins() -> None:
    environment = {
        "TIERFLOW_DESCRIPTOR": "e.json",
        "TIERFLOW_GRPC_PORT": "9001",
        "TIERFLOW_QUEUE": "3",
        "TIERFLOW_MAX_MESSAGE_BYTES": "1Mi",
        "TIERFLOW_SPEED": "0.25",
        "XDG_CACHE_HOME": "/cache",
    }
    settings = read_settings(["--queue", "5"], environment)
    assert settings.descriptor == Path("e.json")
    assert (settings.grpc_port, settings.queue, settings.speed) == (9001, 5, 0.25)
    assert settings.max_message_bytes == 2**20
    assert settings.cache_dir == Path("/cache/tierflow")


def test_a_tier_that_is_emulated_computes_in_one_thread() -> None:
    threads = ["--descriptor", "d.json", "--threads", "4"]
    assert read_settings(threads, HOME).threads == 4
    assert read_settings([*threads, "--speed", "0.5"], HOME).threads == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--descriptor is missing"),
        (["--descriptor", "d", "--grpc-port", "70000"], "--grpc-port: '70000' is not a port"),
        (["--descriptor", "d", "--queue", "-1"], "--queue: '-1' is not a whole number from 0 on"),
        (["--descriptor", "d", "--threads", "0"], "--threads: '0' is not a whole number from 1 on"),
        (["--descriptor", "d", "--speed", "2"], "a machine can't be made faster"),
        (["--descriptor", "d", "--speed", "nan"], "--speed: 'nan'"),
        (["--descriptor", "d", "--max-message-bytes", "5 apples"], "unknown unit 'apples'"),
        (["--descriptor", "d", "--drain-seconds", "soon"], "--drain-seconds: 'soon'"),
        (["--descriptor", "d", "--log-level", "loud"], "--log-level"),
        (["--descriptor", "d", "--grpc", "1"], "unrecognized arguments"),
    ],
)
def test_a_wrong_flag_is_named_with_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        read_settings(arguments, HOME)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_wrong_variable_is_named_by_its_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_settings(["--descriptor", "d"], {**HOME, "TIERFLOW_QUEUE": "many"})
    assert "--queue: 'many'" in capsys.readouterr().err


def test_help_shows_every_flag_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        read_settings(["--help"], HOME)
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for word in ("--descriptor", "(8001)", "(64Mi)", "--speed", "TIERFLOW_GRPC_PORT", "Exit codes"):
        assert word in text
