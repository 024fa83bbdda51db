"""One Lease among several replicas, on a real API server."""

import threading
from collections.abc import Callable, Iterator

import pytest

from testbed.control_plane import ControlPlane
from testbed.process import wait_for
from testbed.rest import ApiServer, Manifest
from tierflow_operator.kube_client import KubeClient, read_configuration
from tierflow_operator.leader import Leader, LeaseName
from tierflow_operator.telemetry import Telemetry

SECONDS = 3


class Replica:
    """A replica that only tries to lead."""

    def __init__(self, control_plane: ControlPlane, namespace: str, name: str, seconds: int) -> None:
        self.name = name
        self.led = threading.Event()
        self.lost = threading.Event()
        self.telemetry = Telemetry()
        self.reaches_the_server = True
        configuration = read_configuration(control_plane.kubeconfig, "", {})
        # Writes that are held back stand for a server that can't be reached.
        client = KubeClient(configuration, self.telemetry, timeout_seconds=1, may_write=lambda: self.reaches_the_server)
        lease = LeaseName(namespace, "tierflow-operator", name, seconds)
        self.leader = Leader(client, lease, self.telemetry, on_lead=self.led.set, on_lost=self.lost.set)
        self.leader.start()

    def gauge(self) -> float:
        return self.telemetry.value("tierflow_operator_leader")


@pytest.fixture
def replica(control_plane: ControlPlane, namespace: str) -> Iterator[Callable[..., Replica]]:
    started: list[Replica] = []

    def start(name: str, seconds: int = SECONDS) -> Replica:
        started.append(Replica(control_plane, namespace, name, seconds))
        return started[-1]

    yield start
    for each in started:
        each.leader.stop()


@pytest.fixture
def path(namespace: str) -> str:
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/tierflow-operator"


def spec(api: ApiServer, path: str) -> Manifest:
    return dict((api.find(path) or {}).get("spec") or {})


def test_of_two_replicas_one_leads_and_keeps_leading(
    replica: Callable[..., Replica], api: ApiServer, path: str
) -> None:
    replicas = [replica("one"), replica("two")]
    wait_for("a leader", lambda: any(each.led.is_set() for each in replicas))
    first = spec(api, path)
    renewals = set()
    wait_for(
        "renewals beyond the lease's time", lambda: renewals.add(spec(api, path)["renewTime"]) or len(renewals) > 6
    )
    last = spec(api, path)
    assert [each.led.is_set() for each in replicas].count(True) == 1
    assert (last["holderIdentity"], last["acquireTime"]) == (first["holderIdentity"], first["acquireTime"])
    assert last["leaseTransitions"] == 0
    assert sorted(each.gauge() for each in replicas) == [0, 1]
    assert not any(each.lost.is_set() for each in replicas)


def test_a_lease_that_is_given_back_is_taken_over_at_once(
    replica: Callable[..., Replica], api: ApiServer, path: str
) -> None:
    one = replica("one", 600)
    one.led.wait(30)
    two = replica("two", 30)
    one.leader.stop()
    assert not one.leader.leads()
    assert one.gauge() == 0
    wait_for("the other to lead", two.led.is_set)  # long before ten minutes are over
    assert spec(api, path)["holderIdentity"] == "two"
    assert spec(api, path)["leaseTransitions"] == 1
    assert not one.lost.is_set()


def test_a_lease_whose_holder_is_silent_is_taken_over_when_its_time_is_over(
    replica: Callable[..., Replica], api: ApiServer, path: str
) -> None:
    one = replica("one")
    one.led.wait(30)
    one.reaches_the_server = False
    two = replica("two")
    wait_for("the other to lead", two.led.is_set)
    # The first stopped by itself before; it does not get the Lease back.
    assert one.lost.is_set()
    assert not one.leader.leads()
    assert spec(api, path)["holderIdentity"] == "two"


def test_a_short_silence_loses_nothing(replica: Callable[..., Replica]) -> None:
    one = replica("one", 30)
    one.led.wait(30)
    one.reaches_the_server = False

    def fenced() -> float:
        return one.telemetry.value(
            "tierflow_operator_api_requests_total", access="write", verb="update", kind="Lease", outcome="fenced"
        )

    def written() -> float:
        return one.telemetry.value("tierflow_operator_api_writes_total", verb="update", kind="Lease")

    wait_for("a renewal that failed", lambda: fenced() >= 1)
    before = written()
    one.reaches_the_server = True
    wait_for("a renewal", lambda: written() > before)
    assert one.leader.leads()
    assert not one.lost.is_set()


def test_a_holder_whose_lease_somebody_takes_stops_at_its_next_renewal(
    replica: Callable[..., Replica], api: ApiServer, path: str
) -> None:
    one = replica("one")
    one.led.wait(30)
    api.patch(path, {"spec": {"holderIdentity": "somebody"}})
    wait_for("the loss", one.lost.is_set)
    assert not one.leader.leads()
    one.leader.stop()
    assert spec(api, path)["holderIdentity"] == "somebody"


def test_a_lease_that_is_deleted_is_lost(replica: Callable[..., Replica], api: ApiServer, path: str) -> None:
    one = replica("one")
    one.led.wait(30)
    api.delete(path)
    wait_for("the loss", one.lost.is_set)


def test_a_label_on_the_lease_does_not_disturb_its_holder(
    replica: Callable[..., Replica], api: ApiServer, path: str
) -> None:
    one = replica("one")
    one.led.wait(30)
    api.patch(path, {"metadata": {"labels": {"team": "platform"}}})
    labelled = spec(api, path)["renewTime"]
    wait_for("a renewal", lambda: spec(api, path)["renewTime"] != labelled)
    assert one.leader.leads()
    assert api.get(path)["metadata"]["labels"] == {"team": "platform"}


def test_a_replica_without_rights_says_so_once_and_goes_on_trying(
    control_plane: ControlPlane, api: ApiServer, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    account = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
    wait_for("the namespace's ServiceAccount", lambda: api.find(account))
    telemetry = Telemetry()
    kubeconfig = control_plane.kubeconfig_for(namespace, "default")
    client = KubeClient(read_configuration(kubeconfig, "", {}), telemetry, timeout_seconds=5)
    led = threading.Event()
    lease = LeaseName(namespace, "tierflow-operator", "one", 1)
    leader = Leader(client, lease, telemetry, on_lead=led.set, on_lost=lambda: None)
    leader.start()

    def tries() -> float:
        return telemetry.value(
            "tierflow_operator_api_requests_total", access="read", verb="get", kind="Lease", outcome="refused"
        )

    wait_for("several tries", lambda: tries() >= 3)
    leader.stop()
    assert not led.is_set()
    assert caplog.text.count("leases.coordination.k8s.io") == 1
