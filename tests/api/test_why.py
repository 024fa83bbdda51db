"""`tierflow why` about a pipeline that an operator serves on a real API server."""

import json
import os
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.control_plane import ControlPlane
from testbed.nodes import Nodes
from testbed.operator_process import OperatorProcess
from testbed.served_pipeline import ServedPipeline

COMMAND = Path(sysconfig.get_path("scripts")) / "kubectl-tierflow"


@pytest.fixture
def why(control_plane: ControlPlane, namespace: str) -> Callable[..., str]:
    """Runs the plugin as kubectl would, and returns what it prints."""

    def run(*arguments: str) -> str:
        environment = {**os.environ, "KUBECONFIG": str(control_plane.kubeconfig)}
        done = subprocess.run(
            [COMMAND, "why", *arguments, "-n", namespace], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_served_pipeline_says_why_it_has_its_plan(
    operate: Callable[..., OperatorProcess], served: ServedPipeline, nodes: Nodes, why: Callable[..., str]
) -> None:
    nodes.add_all()
    operate()
    served.create().wait_settled(epoch=1)
    report = json.loads(why("small", "--json"))
    assert (report["plan"]["epoch"], report["plan"]["reason"]) == (1, "Initial")
    assert [(each["decision"], each["reason"]) for each in report["decisions"]] == [("Move", "Initial")]
    assert "Initial" in {event["reason"] for event in report["events"]}
    text = why("small")
    assert f"small in {served.namespace}: ready, epoch 1 on " in text
    assert "Epoch 1   Initial: predicted " in text

    served.cut("maxpool", "layer2.0/relu")
    served.wait_settled(epoch=2)
    report = json.loads(why("small", "--json"))
    assert [(each["epoch"], each["reason"]) for each in report["decisions"]] == [(2, "SpecChanged"), (1, "Initial")]
    assert "layer2.0/relu" in why("small")
