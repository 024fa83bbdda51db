"""Tile workers in the control plane: what is rendered for them, and when a change of edge nodes moves a plan."""

import random
from dataclasses import replace

import msgspec
import pytest

from factories.pipelines import ONE_NODE_EACH, network, observation, pipeline, profile
from factories.tiled_pipelines import convolutions, edge_workers, tiled_plan
from tierflow.manifest import InferencePipeline
from tierflow.manifest_reading import from_object
from tierflow.plan import Plan
from tierflow.tiers import TIERS, Tier
from tierflow.tiling.plans import saved_seconds
from tierflow_operator.decide import Decision, Hold, Move, MoveReason, Present, decide
from tierflow_operator.descriptors import TILES
from tierflow_operator.diff import Action, changes
from tierflow_operator.observation import Observation
from tierflow_operator.pods import Manifest, Release
from tierflow_operator.render import component_of, live_descriptors, render

GRAPH = convolutions()
PROFILE = profile(GRAPH)
ADDRESS = "small-tiles.default.svc:8001"


def rendered(plan: Plan, live: tuple[Manifest, ...] = (), *, workers: int = 4) -> tuple[Manifest, ...]:
    return render(pipeline(), GRAPH, plan, live_descriptors(live), edge_workers=workers)


def find(objects: tuple[Manifest, ...], kind: str, component: str = TILES) -> Manifest:
    return next(entry for entry in objects if entry["kind"] == kind and component_of(entry) == component)


def touched(wanted: tuple[Manifest, ...], live: tuple[Manifest, ...]) -> set[str]:
    return {component_of(change.manifest) for change in changes(wanted, live) if change.key[0] == "Deployment"}


def test_a_plan_without_tiles_has_no_tile_workers() -> None:
    objects = rendered(tiled_plan(1))
    assert {component_of(entry) for entry in objects} == {*TIERS, "entry"}
    assert live_descriptors(objects)[Tier.EDGE].tile_workers == ""


def test_the_edge_s_worker_is_told_its_runs_and_where_tile_workers_are() -> None:
    plan = tiled_plan(4)
    edge = live_descriptors(rendered(plan))[Tier.EDGE]
    assert edge.tile_workers == ADDRESS
    for run, told in zip(plan.tiling, edge.segments[0].runs, strict=True):
        assert (told.id, told.rows, told.columns) == (run.id, run.rows, run.columns)
        assert (told.input, told.output) == (GRAPH.tensors[run.input], GRAPH.tensors[run.output])


def test_tile_workers_are_told_of_the_model_and_nothing_of_a_plan() -> None:
    told = live_descriptors(rendered(tiled_plan(4)))
    edge, tiles = told[Tier.EDGE], told[TILES]
    assert (tiles.role, tiles.tier, tiles.tile_workers, tiles.probes) == ("tiles", Tier.EDGE, "", ())
    assert (tiles.model, tiles.inputs, tiles.outputs) == (edge.model, edge.inputs, edge.outputs)
    assert tiles.segments == ()


def test_another_cut_leaves_tile_workers_as_they_are() -> None:
    live = rendered(tiled_plan(4, last_edge="conv4"))
    assert touched(rendered(tiled_plan(4, last_edge="conv3"), live), live) == {Tier.EDGE, Tier.CLOUD}


def test_the_tile_workers_before_stay_until_the_edge_has_found_the_new_ones() -> None:
    assert find(rendered(tiled_plan(4)), "Deployment")["spec"]["minReadySeconds"] == 10
    spec = pipeline().spec
    rollout = msgspec.structs.replace(spec.rollout, progress_deadline_seconds=5)
    hasty = msgspec.structs.replace(pipeline(), spec=msgspec.structs.replace(spec, rollout=rollout))
    objects = render(hasty, GRAPH, tiled_plan(4), edge_workers=4)
    assert find(objects, "Deployment")["spec"]["minReadySeconds"] == 4  # less than the deadline, as Kubernetes wants it


def test_the_number_of_workers_is_the_replicas_of_one_deployment_and_stands_nowhere_else() -> None:
    plan = tiled_plan(4)
    live = rendered(plan, workers=4)
    assert find(live, "Deployment")["spec"]["replicas"] == 3
    (change,) = changes(rendered(plan, live, workers=3), live)
    assert (change.action, change.key) == (Action.REPLACE, ("Deployment", "default", "small-tiles"))
    assert change.fields == ("spec.replicas",)
    assert find(rendered(plan, live, workers=1), "Deployment")["spec"]["replicas"] == 0


def test_a_change_of_grids_touches_the_edge_s_worker_alone() -> None:
    two, four = tiled_plan(2), tiled_plan(4)
    assert [run.id for run in two.tiling] == [run.id for run in four.tiling]
    live = rendered(two)
    assert touched(rendered(four, live), live) == {Tier.EDGE}


def test_tile_workers_are_spread_one_per_node_on_the_edge_s_nodes_and_away_from_its_worker() -> None:
    objects = rendered(tiled_plan(4))
    pod, edge = (find(objects, "Deployment", each)["spec"]["template"]["spec"] for each in (TILES, Tier.EDGE))
    (spread,) = pod["topologySpreadConstraints"]
    assert (spread["maxSkew"], spread["topologyKey"]) == (1, "kubernetes.io/hostname")
    assert (spread["whenUnsatisfiable"], spread["matchLabelKeys"]) == ("DoNotSchedule", ["pod-template-hash"])
    assert [avoided(each) for each in (pod, edge)] == [Tier.EDGE, TILES]
    assert pod["nodeSelector"] == edge["nodeSelector"]
    assert pod["securityContext"] == edge["securityContext"]
    assert pod["containers"] == edge["containers"]


def avoided(pod: Manifest) -> str:
    (term,) = pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    return str(term["podAffinityTerm"]["labelSelector"]["matchLabels"]["app.kubernetes.io/component"])


def test_the_service_of_tile_workers_is_headless_and_has_only_ready_ones() -> None:
    spec = find(rendered(tiled_plan(4)), "Service")["spec"]
    assert spec["clusterIP"] == "None"
    # False is what it is when it isn't given, and what the API server drops: given, it would differ for ever.
    assert "publishNotReadyAddresses" not in spec
    assert spec["selector"]["app.kubernetes.io/component"] == TILES


def test_tile_workers_come_before_the_edge_s_worker_and_go_last() -> None:
    untiled, plan = rendered(tiled_plan(1)), tiled_plan(4)
    order = [component_of(change.manifest) for change in changes(rendered(plan, untiled), untiled)]
    assert order == [TILES, Tier.EDGE, TILES, TILES, Tier.EDGE, Tier.EDGE]
    live = rendered(plan)
    steps = changes(rendered(tiled_plan(1), live), live)
    assert [change.action for change in steps if component_of(change.manifest) == TILES] == [Action.DELETE] * 3
    kinds = [(change.key[0], component_of(change.manifest)) for change in steps]
    assert kinds.index(("Deployment", Tier.EDGE)) < kinds.index(("Deployment", TILES))


def test_an_edge_that_takes_no_part_any_more_is_left_alone() -> None:
    live = rendered(tiled_plan(4, last_device="conv1"))
    gone = rendered(tiled_plan(4, last_device="dense", last_edge=""), live)
    assert Tier.EDGE not in touched(gone, live)
    assert TILES not in {component_of(entry) for entry in gone}


def test_where_tile_workers_are_is_the_release_s_to_choose() -> None:
    release = Release(tile_workers="127.0.0.1:1,127.0.0.1:2")
    told = live_descriptors(render(pipeline(), GRAPH, tiled_plan(3), release=release, edge_workers=3))
    assert told[Tier.EDGE].tile_workers == "127.0.0.1:1,127.0.0.1:2"


@pytest.mark.parametrize("seed", range(20))
def test_any_walk_of_plans_and_workers_converges_in_one_step(seed: int) -> None:
    generator = random.Random(seed)
    layers = ["", *(layer.name for layer in GRAPH.layers)]
    live: tuple[Manifest, ...] = ()
    for _ in range(8):
        device = generator.randrange(len(layers))
        edge = generator.randrange(device, len(layers))
        workers = generator.randrange(1, 6)
        plan = tiled_plan(generator.randrange(1, 6), layers[device], layers[edge] if edge > device else "")
        live = rendered(plan, live, workers=workers)
        assert changes(rendered(plan, live, workers=workers), live) == ()
        told = live_descriptors(live)
        assert (TILES in told) == bool(plan.tiling)
        again = rendered(plan, live, workers=workers + 1)
        assert touched(again, live) == ({TILES} if plan.tiling else set())


def with_nodes(count: int, **links: float) -> Observation:
    return replace(observation(network(**links)), ready_nodes={**ONE_NODE_EACH, Tier.EDGE: count})


def decided(seen: Observation, present: Present | None = None, **tiling: object) -> Decision:
    return decide(manifest(**tiling).spec, GRAPH, PROFILE, seen, present, 1000.0 * (present is not None))


def manifest(**tiling: object) -> InferencePipeline:
    return from_object(
        {
            "apiVersion": "tierflow.dev/v1alpha1",
            "kind": "InferencePipeline",
            "metadata": {"name": "small"},
            "spec": {
                "model": {"uri": "zoo://resnet18"},
                "tiers": [{"name": "device"}, {"name": "edge", "tiling": tiling}, {"name": "cloud"}],
                # On the edge whatever happens: only its tiles are to be decided.
                "planning": {
                    "pins": [{"name": "edge", "layersUpTo": "conv4", "tier": "edge"}],
                    "stabilizationSeconds": 0,
                },
            },
        }
    )


def first(nodes: int, **tiling: object) -> Present:
    decision = decided(with_nodes(nodes), **tiling)
    assert isinstance(decision, Move)
    return decision.present


def test_the_edge_s_ready_nodes_share_tiles_as_far_as_the_manifest_allows_it() -> None:
    assert with_nodes(3).edge_nodes(manifest().spec) == edge_workers(3)
    assert with_nodes(9).edge_nodes(manifest().spec) == edge_workers(4)
    assert with_nodes(9).edge_nodes(manifest(maxWorkers=6).spec) == edge_workers(6)
    assert with_nodes(9).edge_nodes(manifest(mode="Off").spec) == edge_workers(1)
    assert with_nodes(0).edge_nodes(manifest().spec) == edge_workers(1)
    some = replace(with_nodes(3), edge_speeds=(1.0, 0.5))
    assert some.edge_nodes(manifest().spec).speeds == (1.0, 0.5, 1.0)


def test_a_plan_tiles_where_there_are_nodes_for_it() -> None:
    assert not first(1).plan.tiling
    assert not first(4, mode="Off").plan.tiling
    assert first(4).plan.tiling


def test_nodes_that_come_or_go_leave_a_plan_with_tiles_in_force() -> None:
    present = first(4)
    for nodes in (3, 2, 1, 4, 6):
        decision = decided(with_nodes(nodes), present)
        assert isinstance(decision, Hold), nodes
        assert decision.present is not None
        present = decision.present
    assert present.plan == first(4).plan


def test_the_first_nodes_to_share_with_move_the_plan_and_say_so() -> None:
    decision = decided(with_nodes(4), first(1))
    assert isinstance(decision, Move)
    assert decision.reason is MoveReason.NODES_CHANGED
    assert decision.message.startswith("workers at the edge 1 -> 4; predicted ")
    assert isinstance(decided(with_nodes(4), decision.present), Hold)


def test_tiling_that_is_switched_off_ends_at_once() -> None:
    decision = decided(with_nodes(4), first(4), mode="Off")
    assert isinstance(decision, Move)
    assert decision.reason is MoveReason.SPEC_CHANGED
    assert not decision.plan.tiling


def test_what_a_plan_s_tiles_save_follows_the_workers_that_there_are() -> None:
    plan = tiled_plan(4)
    edge = PROFILE.scaled(0.5)
    saved = [saved_seconds(GRAPH, edge, plan, edge_workers(count)) for count in (1, 2, 4)]
    assert saved[0] == 0
    assert 0 < saved[1] < saved[2]
    assert saved[2] == pytest.approx(sum(run.untiled_seconds - run.predicted_seconds for run in plan.tiling))
