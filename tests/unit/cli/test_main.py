"""The command as a process: exit codes, messages, interruption, help."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from tierflow.partition.problem import Algorithm
from tierflow_cli import export_command, plan_command, profile_command, simulate_command, verify_command, zoo_command
from tierflow_cli.options import AlgorithmName

ROOT = Path(__file__).parents[3]
COMMAND = [sys.executable, "-m", "tierflow_cli.main"]


def lines_of(examples: str) -> list[str]:
    return [line.removeprefix("$ ") for line in examples.splitlines() if line.startswith("$ ")]


QUICK = [*lines_of(plan_command.PLAN_EXAMPLES), *lines_of(zoo_command.ZOO_EXAMPLES)]
SLOW = [
    *lines_of(verify_command.VERIFY_EXAMPLES),
    *lines_of(profile_command.PROFILE_EXAMPLES),
    *lines_of(simulate_command.SIMULATE_EXAMPLES),
]


def run_example(run: Callable[..., Any], example: str, folder: Path, small_model: Path, monkeypatch: Any) -> None:
    shutil.copytree(ROOT / "samples", folder / "samples")
    monkeypatch.chdir(folder)
    assert small_model == folder / "model.onnx"
    program, *arguments = shlex.split(example)
    assert program == "tierflow"
    result = run(*arguments)
    assert (result.code, result.err) == (0, "")
    assert result.out


@pytest.mark.parametrize("example", QUICK)
def test_the_examples_of_the_help_run_as_they_are_written(
    run: Callable[..., Any], tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch, example: str
) -> None:
    run_example(run, example, tmp_path, small_model, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("example", SLOW)
def test_the_examples_that_run_models_do_as_well(
    run: Callable[..., Any], tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch, example: str
) -> None:
    run_example(run, example, tmp_path, small_model, monkeypatch)


@pytest.mark.parametrize("command", ["plan", "run", "simulate", "why", "verify", "zoo", "profile", "export"])
def test_every_command_has_help_with_examples(run: Callable[..., Any], command: str) -> None:
    result = run(command, "--help")
    assert result.code == 0
    assert f"$ tierflow {command}" in result.out
    assert "--json" in result.out


def test_the_examples_of_export_are_shown(run: Callable[..., Any]) -> None:
    for example in lines_of(export_command.EXPORT_EXAMPLES):
        assert example.split()[2] in run("export", "--help").out


def test_the_version_is_printed(run: Callable[..., Any]) -> None:
    assert run("--version").out.startswith("tierflow ")


def test_algorithms_are_those_of_the_planner() -> None:
    assert set(get_args(AlgorithmName)) == {algorithm.value for algorithm in Algorithm}


def test_no_arguments_show_the_help(run: Callable[..., Any]) -> None:
    result = run()
    assert (result.code, result.err) == (2, "")
    assert "plan" in result.out


def test_a_traceback_is_shown_only_where_it_is_asked_for(run: Callable[..., Any]) -> None:
    assert "Traceback" in run("plan", "zoo://nothing", "--verbose").err
    assert "Traceback" in run("--verbose", "plan", "zoo://nothing").err


def test_a_defect_is_told_apart_from_bad_input(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_given: object) -> None:
        raise ZeroDivisionError("of no use to users")

    monkeypatch.setattr("tierflow_cli.target.open_target", broken)
    result = run("plan", "zoo://alexnet")
    assert result.code == 70
    assert "please report it" in result.err


def test_an_interrupt_ends_quietly(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tierflow_cli.target.open_target", interrupted)
    result = run("plan", "zoo://alexnet")
    assert (result.code, result.out, result.err) == (130, "", "")


def test_ctrl_c_during_a_download_ends_the_process_quietly(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        uri = f"http://127.0.0.1:{server.getsockname()[1]}/model.onnx"
        process = subprocess.Popen(
            [*COMMAND, "plan", uri],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        )  # fmt: skip
        with process:
            connection, _ = server.accept()  # and never an answer
            with connection:
                connection.settimeout(60)
                connection.recv(1)
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_a_reader_that_stops_reading_is_no_error() -> None:
    process = subprocess.Popen(
        [*COMMAND, "plan", "zoo://inceptionv4", "--layers", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) in {0, 141}


def test_the_process_s_exit_code_says_how_it_went(tmp_path: Path) -> None:
    codes = [
        subprocess.run([*COMMAND, *arguments], capture_output=True, timeout=120, check=False).returncode
        for arguments in (["--version"], ["plan", str(tmp_path / "missing.onnx")])
    ]
    assert codes == [0, 2]


def test_help_does_not_load_what_it_does_not_need() -> None:
    heavy = {"numpy", "onnx", "onnxruntime", "scipy", "grpc", "aiohttp", "torch", "yaml", "fsspec"}
    script = (
        "import sys; from tierflow_cli.main import main; main(['plan', '--help']); "
        f"sys.exit(', '.join({heavy!r} & set(sys.modules)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_shells_are_offered_completion(run: Callable[..., Any]) -> None:
    environment = {
        **os.environ,
        "_TIERFLOW_COMPLETE": "complete_bash",
        "COMP_WORDS": "tierflow plan --network ",
        "COMP_CWORD": "3",
    }
    script = "import sys; sys.argv[0] = 'tierflow'; from tierflow_cli.main import main; sys.exit(main())"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert "wifi" in result.stdout.split()
