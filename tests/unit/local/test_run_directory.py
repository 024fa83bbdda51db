"""The directories of runs: locked while they live, cleared when they are dead."""

import os
from pathlib import Path

import pytest

from tierflow_local.run_directory import RunDirectory, live_runs, runs_directory


def test_a_directory_is_there_while_its_run_lives_and_gone_afterwards(tmp_path: Path) -> None:
    with RunDirectory("small", tmp_path) as directory:
        directory.tell(8001, 8000)
        (state,) = live_runs(tmp_path)
        assert (state.pid, state.pipeline, state.ports) == (os.getpid(), "small", (8001, 8000))
        assert directory.path.stat().st_mode & 0o077 == 0
    assert live_runs(tmp_path) == ()
    assert not directory.path.exists()


def test_runs_of_the_same_pipeline_do_not_meet(tmp_path: Path) -> None:
    with RunDirectory("small", tmp_path) as one, RunDirectory("small", tmp_path) as other:
        assert one.path != other.path
        assert len(live_runs(tmp_path)) == 2


def test_a_dead_directory_is_cleared_and_a_live_one_is_not(tmp_path: Path) -> None:
    dead = tmp_path / "small-dead"
    dead.mkdir()
    (dead / "lock").touch()
    (dead / "descriptor.json").write_text("{}")
    without_lock = tmp_path / "small-broken"
    without_lock.mkdir()
    with RunDirectory("small", tmp_path) as live, RunDirectory("small", tmp_path):
        assert not dead.exists()
        assert not without_lock.exists()
        assert live.path.exists()


def test_closing_twice_does_no_harm(tmp_path: Path) -> None:
    directory = RunDirectory("small", tmp_path)
    directory.close()
    directory.close()


def test_runs_are_kept_where_the_system_keeps_such_things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runs_directory({"XDG_RUNTIME_DIR": str(tmp_path)}) == tmp_path / "tierflow" / "run"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert runs_directory({"XDG_RUNTIME_DIR": "/nowhere"}) == tmp_path / "cache" / "tierflow" / "run"
    assert runs_directory({}) == tmp_path / "cache" / "tierflow" / "run"
