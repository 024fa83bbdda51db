"""Where the tests' binaries come from: the first of three places, else a build, else a message with the way out."""

from pathlib import Path

import pytest

from testbed.binaries import MissingBinaryError, ensure, find


def put(folder: Path, name: str = "etcd", mode: int = 0o755) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("#!/bin/sh\n")
    (folder / name).chmod(mode)
    return folder / name


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has nothing."""
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_assets_come_before_the_path_and_the_path_before_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find("etcd") is None
    cached = put(tmp_path / "cache" / "tierflow" / "bin-v3.6.8")
    assert find("etcd") == cached
    on_path = put(tmp_path / "path")
    assert find("etcd") == on_path
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    assert find("etcd") == on_path
    asset = put(tmp_path / "assets")
    assert find("etcd") == asset
    assert ensure("etcd") == {"etcd": asset}


def test_a_file_that_cannot_be_run_is_no_binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    put(tmp_path / "assets", mode=0o644)
    (tmp_path / "path" / "etcd").mkdir(parents=True)
    assert find("etcd") is None


def test_without_go_the_way_out_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        MissingBinaryError, match=r"kube-apiserver is neither in KUBEBUILDER_ASSETS nor on PATH"
    ) as said:
        ensure("kube-apiserver")
    assert "install Go 1.24 or newer, or put kube-apiserver v1." in str(said.value)
    assert str(tmp_path / "cache") in str(said.value)


def test_without_a_debian_the_way_to_prometheus_is_said() -> None:
    with pytest.raises(MissingBinaryError, match=r"put prometheus 2\.42 or newer on PATH"):
        ensure("prometheus")


def test_a_build_that_fails_leaves_nothing_and_shows_why(tmp_path: Path) -> None:
    go = put(tmp_path / "path", "go")
    go.write_text("#!/bin/sh\necho 'no such host' >&2\nexit 1\n")
    with pytest.raises(MissingBinaryError, match=r"`go mod init build` failed:\nno such host"):
        ensure("etcd")
    assert find("etcd") is None
    assert [path.name for path in (tmp_path / "cache" / "tierflow").iterdir()] == ["build.lock"]
