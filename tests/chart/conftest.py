"""The chart rendered by helm, and JSON schemas of all kinds in it, as a real API server publishes them."""

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from testbed.binaries import CONTROL_PLANE, MissingBinaryError, ensure
from testbed.control_plane import ControlPlane

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "charts" / "tierflow"
CRD: Final = ROOT / "crds" / "tierflow.dev_inferencepipelines.yaml"
_HERE: Final = Path(__file__).parent
_SKIP: Final = "TIERFLOW_SKIP_API_TESTS"
_MISSING: Final = pytest.StashKey[str]()

Manifest = dict[str, Any]
Render = Callable[..., list[Manifest]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.slow)
            if os.environ.get(_SKIP) == "1":
                item.add_marker(pytest.mark.skip(reason=f"{_SKIP}=1"))


def pytest_collection_finish(session: pytest.Session) -> None:
    # Here and not in a fixture: a first build takes longer than a test may.
    wanted = any(item.path.is_relative_to(_HERE) for item in session.items)
    if wanted and os.environ.get(_SKIP) != "1" and not session.config.option.collectonly:
        try:
            ensure("helm", "kubeconform", *CONTROL_PLANE)
        except MissingBinaryError as error:
            session.config.stash[_MISSING] = str(error)


@pytest.fixture(scope="session")
def tools(request: pytest.FixtureRequest) -> Mapping[str, Path]:
    """Where helm and kubeconform are."""
    if _MISSING in request.config.stash:
        pytest.fail(f"{request.config.stash[_MISSING]}; or set {_SKIP}=1 to do without these tests", pytrace=False)
    return ensure("helm", "kubeconform")


@pytest.fixture(scope="session")
def helm(tools: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs helm with a home of its own; its output, or a ValueError with what it complains about."""
    home = tmp_path_factory.mktemp("helm")
    homes = {f"HELM_{kind}_HOME": str(home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [tools["helm"], *arguments], env=os.environ | homes, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ValueError(done.stdout + done.stderr)
        return done.stdout

    return run


@pytest.fixture(scope="session")
def render(helm: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Render:
    """The chart's objects with these values."""

    def rendered(**values: Any) -> list[Manifest]:
        file = tmp_path_factory.mktemp("values") / "values.yaml"
        file.write_text(yaml.safe_dump(values))
        text = helm("template", "tierflow", str(CHART), "--namespace", "tierflow-system", "--values", str(file))
        return [manifest for manifest in yaml.safe_load_all(text) if manifest]

    return rendered


@pytest.fixture(scope="session")
def schemas(tools: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a strict schema per kind, from an API server that knows InferencePipelines."""
    folder = tmp_path_factory.mktemp("schemas")
    with ControlPlane(tmp_path_factory.mktemp("control-plane")) as control_plane:
        control_plane.define(CRD.read_text())
        swagger = json.loads(control_plane.kubectl("get", "--raw", "/openapi/v2"))
    definitions = {name: _strict(definition) for name, definition in swagger["definitions"].items()}
    definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"] = {"type": ["string", "integer"]}
    (folder / "definitions.json").write_text(json.dumps({"definitions": definitions}))
    for name, definition in swagger["definitions"].items():
        for kind in definition.get("x-kubernetes-group-version-kind", ()):
            reference = {"$ref": f"definitions.json#/definitions/{name}"}
            _file(folder, kind["group"], kind["version"], kind["kind"]).write_text(json.dumps(reference))
    for kind in json.loads((_HERE / "monitoring.coreos.com.json").read_text()):
        _file(folder, "monitoring.coreos.com", "v1", kind["properties"]["kind"]["const"]).write_text(json.dumps(kind))
    return folder


def _file(folder: Path, group: str, version: str, kind: str) -> Path:
    # kubeconform takes the version for the group of what has none.
    return folder / f"{group or version}_{version}_{kind.lower()}.json"


def _strict(schema: Any) -> Any:
    """The schema, with fields refused that it doesn't name."""
    if isinstance(schema, list):
        return [_strict(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {name: _strict(value) for name, value in schema.items()}
    is_object = isinstance(schema.get("properties"), dict) and schema.get("type", "object") == "object"
    if is_object and "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        strict["additionalProperties"] = False
    return strict
