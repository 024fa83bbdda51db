"""Looking at the measurements of a pipeline at rest: free while they say the same, else a reconcile."""

from dataclasses import replace

import pytest

from factories.pipelines import network
from factories.reconciling import KEY, Bench, manifest
from tierflow.tiers import Tier
from tierflow_operator.observation import MetricsReason
from tierflow_operator.reconcile import PipelineReconciler

LOOKS = 5.0


def at_rest(bench: Bench) -> PipelineReconciler:
    """An operator that has reconciled a pipeline in which nothing is left to do; what it reads is counted from now."""
    bench.figures.looks_every = LOOKS
    bench.run()
    operator = bench.operator()
    assert operator.reconcile(KEY) == LOOKS
    bench.cluster.reads.clear()
    bench.cluster.writes.clear()
    return operator


def look(operator: PipelineReconciler) -> None:
    """What the queue does when only time has passed."""
    if operator.look(KEY) is None:
        operator.reconcile(KEY)


def test_a_look_that_finds_the_same_asks_the_api_server_for_nothing() -> None:
    bench = Bench()
    operator = at_rest(bench)
    for _ in range(100):
        bench.now += LOOKS
        assert operator.look(KEY) == LOOKS
    assert bench.cluster.reads == []
    assert bench.cluster.writes == []


def test_noise_that_moves_nothing_asks_for_nothing() -> None:
    bench = Bench(manifest({"minImprovementPercent": 10}))
    operator = at_rest(bench)
    bench.figures.links = network(301, 300)
    look(operator)
    assert bench.cluster.reads == []


def test_figures_that_want_another_plan_start_a_move_from_what_is_there_now() -> None:
    bench = Bench()
    operator = at_rest(bench)
    epoch = bench.epoch
    bench.figures.links = network(300, 1)
    bench.cluster.nodes_ready[Tier.CLOUD] = 0
    look(operator)
    assert {"pipeline", "nodes", "owned"} <= set(bench.cluster.reads)
    bench.run()
    assert bench.epoch == epoch + 1
    assert bench.status["decisions"][0]["reason"] == "NodesChanged"


def test_a_look_comes_back_when_a_wait_of_the_decision_is_over() -> None:
    bench = Bench(manifest({"stabilizationSeconds": 3}))
    operator = at_rest(bench)
    bench.figures.links = network(300, 1)
    assert operator.look(KEY) is None
    assert operator.reconcile(KEY) == 3.0
    bench.cluster.reads.clear()
    bench.now += 2.0
    assert operator.look(KEY) == 1.0
    assert bench.cluster.reads == []
    bench.now += 1.0
    look(operator)
    assert bench.cluster.condition("Reconciling") is not None


@pytest.mark.parametrize("reason", [MetricsReason.UNREACHABLE, MetricsReason.STALE])
def test_metrics_that_come_and_go_show_in_the_status_at_once(reason: MetricsReason) -> None:
    bench = Bench()
    operator = at_rest(bench)
    good = bench.figures.metrics
    bench.figures.metrics = replace(good, available=False, reason=reason, message="gone", holds=True)
    look(operator)
    assert bench.cluster.condition("MetricsAvailable")["status"] == "False"
    operator.reconcile(KEY)  # the write is an event
    bench.cluster.reads.clear()
    look(operator)
    assert bench.cluster.reads == []
    bench.figures.metrics = good
    look(operator)
    assert bench.cluster.condition("MetricsAvailable")["status"] == "True"


def test_looks_reconcile_while_there_is_something_to_wait_for() -> None:
    bench = Bench()
    operator = at_rest(bench)
    bench.cluster.stop(Tier.EDGE)
    assert (operator.reconcile(KEY) or 0) < LOOKS
    bench.cluster.reads.clear()
    look(operator)
    assert "owned" in bench.cluster.reads


def test_an_operator_that_has_just_started_reconciles_when_it_is_to_look() -> None:
    bench = Bench()
    at_rest(bench)
    look(bench.operator())
    assert {"pipeline", "nodes", "owned"} <= set(bench.cluster.reads)


def test_what_is_known_of_a_pipeline_is_dropped_when_its_reconcile_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    operator = at_rest(bench)

    def fail(_: object) -> None:
        raise ConnectionError("the API server is away")

    with monkeypatch.context() as patched:
        patched.setattr(bench.cluster, "owned", fail)
        with pytest.raises(ConnectionError):
            operator.reconcile(KEY)
    look(operator)
    assert "owned" in bench.cluster.reads


def test_figures_that_drift_little_by_little_are_noticed_in_the_end() -> None:
    bench = Bench(manifest({"minImprovementPercent": 10}))
    operator = at_rest(bench)
    epoch = bench.epoch
    for step in range(1, 80):
        bench.figures.links = network(300, 300 * 0.95**step)
        look(operator)
    bench.run()
    assert bench.epoch > epoch
    assert bench.status["decisions"][0]["reason"] == "BandwidthChanged"
