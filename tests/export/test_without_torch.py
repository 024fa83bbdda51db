import sys

import pytest

from tierflow.errors import UnsupportedError
from tierflow_cli.export_torch import load_source


@pytest.mark.parametrize("package", ["torch", "onnxscript"])
def test_without_the_extra_the_way_to_install_it_is_said(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UnsupportedError, match=r"exporting needs \w+, which is not installed.*tierflow\[torch\]"):
        load_source("resnet18")
