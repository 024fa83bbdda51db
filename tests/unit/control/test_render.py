"""From plans to Kubernetes objects, and what it takes to get from one set of them to another."""

import itertools
import random
from collections.abc import Mapping

import msgspec
import pytest

from factories.graphs import chain
from factories.pipelines import network, pipeline, profile
from tierflow.descriptor import WorkerDescriptor
from tierflow.manifest_reading import from_object
from tierflow.plan import Plan
from tierflow.segment import cut
from tierflow.tiers import TIERS, Tier
from tierflow_operator.diff import Action, Change, changes, tier_of
from tierflow_operator.manual import plan_for
from tierflow_operator.pods import Manifest, Release
from tierflow_operator.render import live_descriptors, render

GRAPH = chain(8, sizes=[64, 32, 48, 40, 24, 16, 12, 8, 4])
PROFILE = profile(GRAPH)
PIPELINE = pipeline()
SPEEDS = {Tier.DEVICE: 0.1, Tier.EDGE: 0.5, Tier.CLOUD: 1.0}


def plan(device: int, edge: int) -> Plan:
    """A plan with so many layers on the device and on the edge, and the rest on the cloud."""
    last_device = f"L{device - 1}" if device else ""
    last_edge = f"L{device + edge - 1}" if edge else ""
    return plan_for(GRAPH, PROFILE, network(), SPEEDS, cut(GRAPH, last_device, last_edge))


def rendered(wanted: Plan, live: tuple[Manifest, ...] = ()) -> tuple[Manifest, ...]:
    return render(PIPELINE, GRAPH, wanted, live_descriptors(live))


def step(wanted: Plan, live: tuple[Manifest, ...] = ()) -> tuple[Change, ...]:
    return changes(rendered(wanted, live), live)


def deployment(objects: tuple[Manifest, ...], tier: Tier) -> Manifest:
    return next(entry for entry in objects if entry["kind"] == "Deployment" and tier_of(entry) is tier)


def served(objects: tuple[Manifest, ...]) -> Mapping[Tier, WorkerDescriptor]:
    return live_descriptors(objects)


def test_rendering_twice_gives_the_same_objects() -> None:
    once = rendered(plan(2, 3))
    assert once == rendered(plan(2, 3))
    assert once == rendered(plan(2, 3), once)
    assert step(plan(2, 3), once) == ()


@pytest.mark.parametrize("seed", range(20))
def test_any_walk_of_plans_converges_in_one_step_and_touches_only_what_changed(seed: int) -> None:
    generator = random.Random(seed)
    live: tuple[Manifest, ...] = ()
    before: Plan | None = None
    for _ in range(8):
        device, edge = generator.randrange(9), generator.randrange(9)
        wanted = plan(device, min(edge, 8 - device))
        objects = rendered(wanted, live)
        touched = {tier_of(c.manifest) for c in changes(objects, live) if c.key[0] == "Deployment"}
        if before is not None:
            unchanged = {tier for tier in TIERS if _part(before, tier) == _part(wanted, tier)}
            assert not touched & unchanged
        live, before = objects, wanted
        assert changes(rendered(wanted, live), live) == ()


def _part(of: Plan, tier: Tier) -> tuple[str, Tier | None]:
    return of.segment(tier).id, of.next_tier(tier)


def test_a_change_at_the_upper_boundary_touches_edge_and_cloud_alone() -> None:
    live = rendered(plan(2, 3))
    steps = step(plan(2, 4), live)
    assert {tier_of(change.manifest) for change in steps} == {Tier.EDGE, Tier.CLOUD}


def test_a_change_at_the_lower_boundary_touches_device_and_edge_alone() -> None:
    live = rendered(plan(2, 3))
    steps = step(plan(3, 2), live)
    assert {tier_of(change.manifest) for change in steps} == {Tier.DEVICE, Tier.EDGE}


def test_workers_change_from_the_cloud_down_to_the_device_and_old_objects_go_last() -> None:
    steps = step(plan(3, 3), rendered(plan(2, 3)))
    assert [(change.action, change.key[0], tier_of(change.manifest)) for change in steps] == [
        (Action.CREATE, "ConfigMap", Tier.CLOUD),
        (Action.CREATE, "ConfigMap", Tier.EDGE),
        (Action.CREATE, "ConfigMap", Tier.DEVICE),
        (Action.REPLACE, "Deployment", Tier.CLOUD),
        (Action.REPLACE, "Deployment", Tier.EDGE),
        (Action.REPLACE, "Deployment", Tier.DEVICE),
        (Action.DELETE, "ConfigMap", Tier.CLOUD),
        (Action.DELETE, "ConfigMap", Tier.EDGE),
        (Action.DELETE, "ConfigMap", Tier.DEVICE),
    ]


def test_everything_a_worker_needs_is_created_before_it() -> None:
    kinds = [change.key[0] for change in step(plan(2, 3))]
    shared = ["ServiceAccount", "PodDisruptionBudget"]
    assert kinds == [*shared, *["ConfigMap"] * 3, *["Service"] * 4, *["Deployment"] * 3]


def test_a_changed_segment_is_followed_by_the_one_before() -> None:
    first, second = plan(2, 3), plan(3, 3)
    live = rendered(first)
    edge = served(rendered(second, live))[Tier.EDGE]
    assert [part.id for part in edge.segments] == [second.segment(Tier.EDGE).id, first.segment(Tier.EDGE).id]


def test_a_segment_that_accepts_the_same_replaces_the_one_before_entirely() -> None:
    live = rendered(plan(2, 3))
    edge = served(rendered(plan(2, 4), live))[Tier.EDGE]
    assert [part.id for part in edge.segments] == [plan(2, 4).segment(Tier.EDGE).id]


def test_a_segment_that_no_tier_below_sends_to_any_more_is_forgotten_when_the_worker_changes_next() -> None:
    first, second, third = plan(2, 3), plan(3, 3), plan(3, 4)
    live = rendered(second, rendered(first))
    edge = served(rendered(third, live))[Tier.EDGE]
    assert [part.id for part in edge.segments] == [third.segment(Tier.EDGE).id]


def test_a_segment_before_stays_where_it_is_not_known_what_the_tier_below_sends() -> None:
    first, second, third = plan(2, 3), plan(3, 3), plan(3, 4)
    live = rendered(second, rendered(first))
    unknown = tuple(entry for entry in live if not (entry["kind"] == "ConfigMap" and tier_of(entry) is Tier.DEVICE))
    edge = served(rendered(third, unknown))[Tier.EDGE]
    assert [part.id for part in edge.segments] == [third.segment(Tier.EDGE).id, first.segment(Tier.EDGE).id]


def test_no_rollout_ever_meets_a_worker_that_does_not_know_a_boundary() -> None:
    plans = [plan(2, 3), plan(4, 2), plan(0, 8), plan(8, 0), plan(3, 0), plan(0, 0)]
    for first, second, third in itertools.permutations(plans, 3):
        live = rendered(second, rendered(first))
        running = dict(served(live))
        check_chain(running)
        for tier, descriptor in reversed(served(rendered(third, live)).items()):
            running[tier] = descriptor
            check_chain(running)


def check_chain(running: Mapping[Tier, WorkerDescriptor]) -> None:
    """Follows a request through the workers as they are."""
    segment = running[Tier.DEVICE].segments[0]
    while segment.downstream is not None:
        assert segment.sends is not None
        above = running[segment.downstream.tier]
        known = {part.accepts.id: part for part in above.segments}
        assert segment.sends.id in known
        segment = known[segment.sends.id]
    assert segment.results or not segment.layers


def test_a_tier_that_no_longer_takes_part_goes_on_serving_what_it_served() -> None:
    live = rendered(plan(2, 3))
    objects = rendered(plan(8, 0), live)
    assert [part.id for part in served(objects)[Tier.CLOUD].segments] == [plan(2, 3).segment(Tier.CLOUD).id]
    assert Tier.CLOUD not in {tier_of(change.manifest) for change in changes(objects, live)}


def test_a_tier_that_never_took_part_stands_by_with_its_links_to_measure() -> None:
    edge = served(rendered(plan(8, 0)))[Tier.EDGE]
    assert edge.segments == ()
    assert [probe.address for probe in edge.probes] == ["small-cloud.default.svc:8001"]


def test_addresses_are_the_release_s_to_choose() -> None:
    release = Release(addresses=lambda sender, receiver: f"127.0.0.1:{100 * sender.rank + receiver.rank}")
    device = live_descriptors(render(PIPELINE, GRAPH, plan(2, 3), release=release))[Tier.DEVICE]
    assert device.segments[0].downstream is not None
    assert device.segments[0].downstream.address == "127.0.0.1:1"
    assert [probe.address for probe in device.probes] == ["127.0.0.1:1", "127.0.0.1:2"]


def test_a_worker_s_pod_meets_the_restricted_pod_security_standard() -> None:
    for tier in TIERS:
        pod = deployment(rendered(plan(2, 3)), tier)["spec"]["template"]["spec"]
        container = pod["containers"][0]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_objects_belong_to_their_pipeline_where_it_lives_in_a_cluster() -> None:
    owned = from_object(msgspec.json.decode(msgspec.json.encode(pipeline(uid="7d3f"))))
    for entry in render(owned, GRAPH, plan(2, 3)):
        assert entry["metadata"]["ownerReferences"][0]["uid"] == "7d3f"
    assert all("ownerReferences" not in entry["metadata"] for entry in rendered(plan(2, 3)))


def live_after_the_api_server(objects: tuple[Manifest, ...]) -> tuple[Manifest, ...]:
    """The objects with what an API server adds and rewrites."""
    copies = msgspec.json.decode(msgspec.json.encode(objects))
    for entry in copies:
        entry["metadata"] |= {"uid": "1", "resourceVersion": "7", "managedFields": []}
        if entry["kind"] == "Service":
            entry["spec"]["clusterIP"] = "10.0.0.7"
        if entry["kind"] == "Deployment":
            entry["status"] = {"readyReplicas": 1}
            container = entry["spec"]["template"]["spec"]["containers"][0]
            container["terminationMessagePath"] = "/dev/termination-log"
            if container["resources"]["requests"].get("memory") == "1024Mi":
                container["resources"]["requests"] = {"cpu": "500m", "memory": "1Gi"}
    return tuple(copies)


def test_what_the_api_server_adds_or_rewrites_is_no_difference() -> None:
    value = msgspec.json.decode(msgspec.json.encode(PIPELINE))
    value["spec"]["tiers"][0]["resources"] = {"requests": {"cpu": "0.5", "memory": "1024Mi"}}
    wanted = render(from_object(value), GRAPH, plan(2, 3))
    assert changes(wanted, live_after_the_api_server(wanted)) == ()


def test_what_somebody_else_changed_is_put_right_and_named() -> None:
    wanted = rendered(plan(2, 3))
    live = live_after_the_api_server(wanted)
    deployment(live, Tier.EDGE)["spec"]["progressDeadlineSeconds"] = 1
    (change,) = changes(wanted, live)
    assert (change.action, change.fields) == (Action.REPLACE, ("spec.progressDeadlineSeconds",))


def test_a_tier_without_replicas_leaves_them_to_whoever_scales_it() -> None:
    wanted = rendered(plan(2, 3))
    live = live_after_the_api_server(wanted)
    deployment(live, Tier.EDGE)["spec"]["replicas"] = 5
    assert changes(wanted, live) == ()


def test_a_node_that_is_lost_loses_its_workers_soon_unless_the_manifest_says_otherwise() -> None:
    value = msgspec.json.decode(msgspec.json.encode(PIPELINE))
    own = {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"}
    value["spec"]["tiers"][1]["tolerations"] = [own]
    wanted = render(from_object(value), GRAPH, plan(2, 3))
    pods = [deployment(wanted, tier)["spec"]["template"]["spec"] for tier in (Tier.DEVICE, Tier.EDGE)]
    device, edge = ({entry["key"]: entry.get("tolerationSeconds") for entry in pod["tolerations"]} for pod in pods)
    assert device == {"node.kubernetes.io/not-ready": 10, "node.kubernetes.io/unreachable": 10}
    assert edge == {"node.kubernetes.io/not-ready": 10, "node.kubernetes.io/unreachable": None}


def test_workers_wait_for_approval_where_the_release_approves_and_tile_workers_never() -> None:
    for wanted, tiers in (
        (render(PIPELINE, GRAPH, plan(2, 3), release=Release(approves=True)), TIERS),
        (rendered(plan(2, 3)), ()),
    ):
        for tier in TIERS:
            pod = deployment(wanted, tier)["spec"]["template"]["spec"]
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            assert ("--approval-file" in pod["containers"][0]["args"]) == (tier in tiers)
            if tier in tiers:
                name = volumes["descriptor"]["configMap"]["name"]
                assert volumes["approval"]["configMap"] == {"name": f"{name}-approved", "optional": True}


def test_a_field_that_is_wanted_no_more_is_noticed() -> None:
    value = msgspec.json.decode(msgspec.json.encode(PIPELINE))
    value["spec"]["tiers"][1]["tolerations"] = [{"key": "edge", "operator": "Exists"}]
    live = live_after_the_api_server(render(from_object(value), GRAPH, plan(2, 3)))
    (change,) = changes(rendered(plan(2, 3)), live)
    assert (change.key[0], tier_of(change.manifest)) == ("Deployment", Tier.EDGE)


def test_objects_of_no_more_use_are_deleted() -> None:
    live = rendered(plan(2, 3))
    assert [change.action for change in changes((), live)] == [Action.DELETE] * len(live)
