"""`tierflow operator`, and connecting to a cluster."""

import json
import sys
from pathlib import Path

import pytest

from tierflow.errors import InvalidInputError
from tierflow_cli.main import BAD_INPUT, main
from tierflow_operator.kube_client import read_configuration


@pytest.mark.parametrize("package", ["kopf", "kubernetes"])
def test_without_the_extra_the_way_to_install_it_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], package: str
) -> None:
    for name in ("main", "door", "kube", "kube_client"):
        monkeypatch.delitem(sys.modules, f"tierflow_operator.{name}", raising=False)
    for name in (package, *(name for name in sys.modules if name.startswith(f"{package}."))):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["operator", "--no-leader-elect"]) == BAD_INPUT
    said = " ".join(capsys.readouterr().err.split())
    assert f"the operator needs {package}, which is not installed: pip install 'tierflow[operator]'" in said


def test_the_command_has_the_operators_own_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["operator", "--help"])
    assert ended.value.code == 0
    assert "--lease-seconds" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    ["", "[]", "just text", "{", json.dumps({"clusters": [], "contexts": [], "users": [], "current-context": "x"})],
)
def test_a_kubeconfig_that_is_none_is_refused_by_name(tmp_path: Path, content: str) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(content)
    with pytest.raises(InvalidInputError, match="--kubeconfig") as refused:
        read_configuration(file, "", {})
    assert str(file) in refused.value.message


def test_a_kubeconfig_that_is_missing_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="nowhere"):
        read_configuration(None, "", {"KUBECONFIG": str(tmp_path / "nowhere")})


def test_a_context_that_is_missing_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(json.dumps({"clusters": [], "contexts": [], "users": [], "current-context": ""}))
    with pytest.raises(InvalidInputError, match="kind-tierflow"):
        read_configuration(file, "kind-tierflow", {})


def test_a_pod_without_an_account_is_told_so() -> None:
    with pytest.raises(InvalidInputError, match="the pod's service account"):
        read_configuration(None, "", {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"})
