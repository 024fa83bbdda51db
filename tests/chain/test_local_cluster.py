"""Local mode with real workers: rolling updates under load, and what is left when it is over."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from factories.local_runs import Running, running, wanted
from tierflow.errors import InvalidInputError, TierflowError
from tierflow.tiers import TIERS, Tier
from tierflow_local.cluster import Entry
from tierflow_local.links import HOST
from tierflow_local.load import Load, ask
from tierflow_operator.observation import LINKS

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _own_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runtime").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Running]:
    with running(wanted(tmp_path)) as made:
        yield made


def pids(local: Running) -> dict[Tier, int]:
    return {tier: worker.pid for tier, worker in local.session.cluster.workers.items()}


def changed(before: dict[Tier, int], local: Running) -> set[Tier]:
    return {tier for tier, pid in pids(local).items() if pid != before[tier]}


def test_updates_under_load_lose_no_request_and_replace_only_what_changed(local: Running) -> None:
    walk = [
        (("conv1", "conv4"), {Tier.EDGE, Tier.CLOUD}),
        (("conv2", "conv4"), {Tier.DEVICE, Tier.EDGE}),
        (("conv2", ""), {Tier.DEVICE, Tier.CLOUD}),  # straight to the cloud: the edge's worker stands by
        (("dense", ""), {Tier.DEVICE}),
        (("conv1", "conv3"), {Tier.DEVICE, Tier.EDGE, Tier.CLOUD}),
    ]
    local.session.local.apply(local.plan("conv1", "conv3"))
    with local.client() as one, local.client() as other:
        assert not ask(one, 3).lost
        with Load([one, other]) as load:
            for cut, expected in walk:
                before = pids(local)
                local.session.local.apply(local.plan(*cut))
                assert changed(before, local) <= expected, cut
                assert Tier.DEVICE in changed(before, local) or Tier.DEVICE not in expected
        after = ask(one, 3)
    assert load.answers.sent > 20
    assert [answer.error for answer in (*load.answers.lost, *after.lost)] == []
    assert not load.answers.wrong
    assert not after.wrong


def test_each_link_carries_what_the_plan_says(local: Running) -> None:
    plan = local.plan("conv2", "conv3")
    local.session.local.apply(plan)
    with local.client() as client:
        ask(client, 3)
        before = {link: local.session.cluster.traffic(link) for link in LINKS}
        ask(client, 20)
    for link in LINKS[:2]:
        bytes_per_request = local.session.cluster.traffic(link).since(before[link]).up / 20
        assert bytes_per_request == pytest.approx(plan.segment(link[0]).boundary_bytes, rel=0.2)


def test_a_worker_that_does_not_start_leaves_the_one_before_in_force(local: Running, tmp_path: Path) -> None:
    local.session.local.apply(local.plan("conv1", "conv3"))
    before = pids(local)
    saved_model = tmp_path / "model.onnx"
    content = saved_model.read_bytes()
    saved_model.write_bytes(b"no model")
    with pytest.raises(TierflowError, match=r"the worker of cloud ended with code 2: .*model\.onnx"):
        local.session.local.apply(local.plan("conv1", "conv4"))
    assert changed(before, local) == set()
    with local.client() as client:
        answers = ask(client, 3)
    assert not answers.lost
    assert not answers.wrong
    saved_model.write_bytes(content)
    local.session.local.apply(local.plan("conv1", "conv4"))
    assert changed(before, local) == {Tier.EDGE, Tier.CLOUD}


def test_nothing_is_left_when_a_run_ends(tmp_path: Path) -> None:
    with running(wanted(tmp_path)) as local:
        local.session.local.apply(local.plan("conv1", "conv3"))
        entry, processes = local.session.cluster.entry, pids(local).values()
        assert all(psutil.pid_exists(pid) for pid in processes)
    assert not any(psutil.pid_exists(pid) for pid in processes)
    assert [path.name for path in (tmp_path / "runtime" / "tierflow" / "run").iterdir()] == ["lock"]
    for port in (entry.grpc, entry.rest):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, port), timeout=5)


def test_a_second_run_beside_the_first_takes_other_ports_and_both_answer(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
    with running(wanted(folders[0])) as first, running(wanted(folders[1])) as second:
        ports = {first.session.cluster.entry.grpc, second.session.cluster.entry.grpc}
        assert len(ports) == 2
        for local in (first, second):
            local.session.local.apply(local.plan("dense", ""))
            with local.client() as client:
                assert not ask(client, 3).lost


def test_a_port_of_another_run_is_named_with_its_process(tmp_path: Path) -> None:
    with running(wanted(tmp_path)) as first:
        port = first.session.cluster.entry.grpc
        with (
            pytest.raises(InvalidInputError, match=rf"port {port} .* is in use.*pipeline narrowing.*{os.getpid()}"),
            running(wanted(tmp_path, entry=Entry(port, 0))),
        ):
            pass


def test_an_interrupted_rollout_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    children = psutil.Process().children

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tierflow_local.worker_process.WorkerProcess.wait_ready", interrupt)
    with running(wanted(tmp_path)) as local, pytest.raises(KeyboardInterrupt):
        local.session.local.apply(local.plan("conv1", "conv3"))
    assert [child for child in children() if "tierflow_local" in " ".join(child.cmdline())] == []


def test_workers_are_seen_by_their_metrics(local: Running) -> None:
    from tierflow_local.scrape import scrape

    plan = local.plan("conv1", "conv3")
    local.session.local.apply(plan)
    with local.client() as client:
        ask(client, 5)
    found = scrape(local.session.cluster.workers.values(), now=0.0, max_staleness_seconds=60)
    for tier in TIERS:
        runs, seconds = found.segments[(tier, plan.segment(tier).id)]
        assert runs == 5
        assert seconds > 0
