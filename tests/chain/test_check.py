"""The program `tierflow-check` beside real workers: what it says of right ones, wrong ones and missing ones."""

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from benchmarks.workers import Start, WorkerProcess, segment_descriptor, worker_descriptor
from factories.models import convolutions, model_of, node, saved, value, weight
from factories.planes import array_of, tensor_of
from factories.tampering import (
    TamperingServer,
    cropped,
    failing,
    garbage,
    in_front_of,
    renamed,
    with_a_full_queue,
)
from tierflow import descriptor as descriptors
from tierflow.descriptor import Downstream, WorkerDescriptor
from tierflow.model import open_model
from tierflow.protocol.codec import encode_response
from tierflow.protocol.messages import InferResponse
from tierflow.segment import Route, cut, segments_of
from tierflow.tiers import TIERS, Tier
from tierflow_worker.extraction import extract

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
DESCRIBED = ["holds", "bitIdentical", "largestRelativeDifference", "tiers", "message"]


@dataclass
class Checked:
    """What a check said."""

    code: int
    verdict: dict[str, Any]


@dataclass
class Plan:
    """A partition's descriptors as files, and where its workers are."""

    folder: Path
    uri: str
    descriptors: dict[Tier, WorkerDescriptor]
    addresses: dict[Tier, str]

    def file(self, tier: Tier) -> Path:
        return self.folder / f"{tier}.json"

    def command(self, *more: str, tiers: Sequence[Tier] = TIERS, told: Path | None = None) -> list[str]:
        """The check's command line; `told` is the file in which it will find the workers, if they aren't given."""
        flags = ["--cache-dir", str(self.folder / "cache-of-check"), "--termination-log", str(self.folder / "log")]
        for tier in tiers:
            flags += ["--descriptor", f"{tier}={self.file(tier)}"]
        if told is not None:
            flags += ["--workers-file", str(told)]
        else:
            flags += [word for tier in tiers for word in ("--worker", f"{tier}={self.addresses[tier]}")]
        return [sys.executable, "-m", "tierflow_worker.check", *flags, *more]

    def check(self, *more: str, tiers: Sequence[Tier] = TIERS) -> Checked:
        done = subprocess.run(
            self.command(*more, tiers=tiers), check=False, capture_output=True, text=True, timeout=240
        )
        print(done.stdout, done.stderr)
        assert list(msgspec.json.decode(done.stdout)) == DESCRIBED
        assert (self.folder / "log").read_text() == done.stdout.strip()
        return Checked(done.returncode, msgspec.json.decode(done.stdout))


def plan_of(uri: str, folder: Path, last_device: str, last_edge: str, route: Route = Route.RELAYED) -> Plan:
    """The descriptors that workers and check are given; ports are free ones."""
    model = open_model(uri)
    segments = segments_of(model.graph, cut(model.graph, last_device, last_edge), route)
    listeners = {tier: socket.create_server(("127.0.0.1", 0)) for tier in TIERS}
    plan = Plan(folder, uri, {}, {tier: f"127.0.0.1:{one.getsockname()[1]}" for tier, one in listeners.items()})
    for listener in listeners.values():
        listener.close()
    above: Downstream | None = None
    for tier in reversed(TIERS):
        segment = segments[tier.rank]
        served = [segment_descriptor(model, segment, above)] if segment.takes_part else []
        plan.descriptors[tier] = worker_descriptor(model, uri, tier, served)
        plan.file(tier).write_bytes(descriptors.encode(plan.descriptors[tier]))
        if segment.takes_part:
            # Nobody is there: the check must not need the way from one worker to the next.
            above = Downstream(tier=tier, address="127.0.0.1:1")
    return plan


def start_worker_of(start: Start, plan: Plan, tier: Tier) -> WorkerProcess:
    port = plan.addresses[tier].rpartition(":")[2]
    return start(plan.descriptors[tier], grpc_port=port, approval_file=plan.folder / "never")


def branches() -> onnx.ModelProto:
    """Two inputs, four outputs of two types, one of which is NaN in places, made on all tiers."""
    return model_of(
        [
            node("Relu", "left", "a", name="first"),
            node("Add", "left right", "b", name="join"),
            node("Log", "b", "early", name="early"),
            node("Sigmoid", "b", "c", name="middle"),
            node("Concat", "c a", "d", name="skip", axis=1),
            node("ArgMax", "d", "best", name="best", axis=1),
            node("MatMul", "d m", "late", name="late"),
        ],
        [value("left", [2, 8]), value("right", [2, 8])],
        [
            value("a", [2, 8]),
            value("early", [2, 8]),
            value("best", [2, 1], onnx.TensorProto.INT64),
            value("late", [2, 5]),
        ],
        [weight("m", 16, 5)],
    )  # fmt: skip


@pytest.fixture
def small(tmp_path: Path) -> str:
    return str(saved(convolutions(), tmp_path))


@pytest.mark.parametrize(
    ("last_device", "last_edge", "route", "part"),
    [
        ("first", "middle", Route.RELAYED, ["device", "edge", "cloud"]),
        ("", "early", Route.RELAYED, ["device", "edge", "cloud"]),
        ("middle", "middle", Route.DIRECT, ["device", "cloud"]),
        ("late", "late", Route.RELAYED, ["device"]),
    ],
)
def test_a_chain_that_answers_rightly_holds_bit_by_bit(
    start: Start, last_device: str, last_edge: str, route: Route, part: list[str], tmp_path: Path
) -> None:
    plan = plan_of(str(saved(branches(), tmp_path)), tmp_path, last_device, last_edge, route)
    for tier in TIERS:
        start_worker_of(start, plan, tier)
    checked = plan.check()
    assert checked.code == 0
    assert checked.verdict == {
        "holds": True,
        "bitIdentical": True,
        "largestRelativeDifference": 0.0,
        "tiers": part,
        "message": f"the answer of {', '.join(part)} is the whole model's, bit by bit",
    }


def test_a_real_architecture_holds_and_tiers_without_a_segment_need_not_be_given(start: Start, tmp_path: Path) -> None:
    uri = str(LIGHT / "light_squeezenet.onnx")
    names = [layer.name for layer in open_model(uri).graph.layers]
    plan = plan_of(uri, tmp_path, names[8], names[8], Route.DIRECT)
    part = (Tier.DEVICE, Tier.CLOUD)
    for tier in part:
        start_worker_of(start, plan, tier)
    checked = plan.check(tiers=part)
    assert (checked.code, checked.verdict["holds"]) == (0, True)
    assert checked.verdict["tiers"] == list(part)


def test_a_descriptor_is_found_in_the_directory_where_its_volume_is_mounted(
    start: Start, small: str, tmp_path: Path
) -> None:
    plan = plan_of(small, tmp_path, "dense", "dense")
    start_worker_of(start, plan, Tier.DEVICE)
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    plan.file(Tier.DEVICE).rename(mounted / "descriptor.json")
    plan.file = lambda _: mounted  # type: ignore[method-assign]
    assert plan.check(tiers=(Tier.DEVICE,)).code == 0


def test_a_segment_with_other_weights_does_not_hold(start: Start, small: str, tmp_path: Path) -> None:
    plan = plan_of(small, tmp_path, "relu1", "conv2")
    edge = plan.descriptors[Tier.EDGE]
    file = extract(edge, edge.segments[0], tmp_path / "cache")  # where the worker looks before it cuts
    tampered = onnx.load(file)
    [conv] = [one for one in tampered.graph.initializer if one.name == "w2"]
    conv.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(conv) * np.float32(1.001), "w2"))
    onnx.save(tampered, file)
    for tier in TIERS:
        start_worker_of(start, plan, tier)
    checked = plan.check()
    assert checked.code == 1
    assert not checked.verdict["holds"]
    assert not checked.verdict["bitIdentical"]
    assert 1e-6 < checked.verdict["largestRelativeDifference"] < 0.1
    assert "output scores of device, edge, cloud differs" in checked.verdict["message"]


@pytest.fixture
def tampering(start: Start, small: str, tmp_path: Path) -> Iterator[tuple[Plan, TamperingServer]]:
    """A chain in front of whose edge somebody changes the answers."""
    plan = plan_of(small, tmp_path, "relu1", "conv2")
    for tier in TIERS:
        start_worker_of(start, plan, tier).wait_for("waiting for approval")
    with in_front_of(plan.addresses[Tier.EDGE]) as server:
        plan.addresses[Tier.EDGE] = server.address
        yield plan, server


def nan(answer: InferResponse) -> bytes:
    tensor = answer.tensors[0]
    array = np.full_like(array_of(tensor), np.nan)
    return encode_response(replace(answer, tensors=(tensor_of(tensor.name, array), *answer.tensors[1:])))


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (nan, "differs from the whole model's by 1"),
        (cropped, "edge at {edge} answers wrongly: tensor 'r1' must have the shape"),
        (renamed, "edge at {edge} answers wrongly: the answer takes no tensor 'other'"),
        (garbage, "edge at {edge} answers wrongly: the server's answer is no valid ModelInferResponse"),
        (failing, "edge at {edge} failed: INTERNAL"),
    ],
)
def test_a_wrong_answer_of_one_worker_does_not_hold(
    tampering: tuple[Plan, TamperingServer], tamper: Callable[[InferResponse], bytes], message: str
) -> None:
    plan, server = tampering
    server.tamper = tamper
    checked = plan.check()
    assert checked.code == 1
    assert not checked.verdict["holds"]
    assert message.format(edge=server.address) in checked.verdict["message"]


def test_a_worker_that_stays_overloaded_can_not_be_checked(tampering: tuple[Plan, TamperingServer]) -> None:
    plan, server = tampering
    server.tamper = with_a_full_queue
    checked = plan.check("--timeout-seconds", "15")
    assert checked.code == 2
    assert f"edge at {server.address} did not answer in time" in checked.verdict["message"]
    assert server.asked > 1


def test_a_worker_that_never_comes_is_named(start: Start, small: str, tmp_path: Path) -> None:
    plan = plan_of(small, tmp_path, "relu1", "conv2")
    start_worker_of(start, plan, Tier.DEVICE).wait_for("waiting for approval")
    checked = plan.check("--timeout-seconds", "15")
    assert checked.code == 2
    assert not checked.verdict["holds"]
    assert f"edge at {plan.addresses[Tier.EDGE]} did not answer in time: UNAVAILABLE" in checked.verdict["message"]


def test_workers_that_start_after_the_check_are_waited_for(start: Start, small: str, tmp_path: Path) -> None:
    plan = plan_of(small, tmp_path, "relu1", "conv2")
    with subprocess.Popen(plan.command(), stdout=subprocess.PIPE, text=True) as check:
        for tier in reversed(TIERS):
            start_worker_of(start, plan, tier)
        output, _ = check.communicate(timeout=120)
    assert check.returncode == 0, output


def test_workers_that_are_told_of_after_its_start_are_checked(start: Start, small: str, tmp_path: Path) -> None:
    plan = plan_of(small, tmp_path, "relu1", "conv2")
    told = tmp_path / "workers"
    told.write_text("")  # as an annotation that isn't there yet
    with subprocess.Popen(plan.command(told=told), stdout=subprocess.PIPE, text=True) as check:
        for tier in TIERS:
            start_worker_of(start, plan, tier)
        assert check.poll() is None
        unfinished = tmp_path / "unfinished"
        unfinished.write_text(" ".join(f"{tier}={address}" for tier, address in plan.addresses.items()))
        unfinished.rename(told)
        output, _ = check.communicate(timeout=120)
    assert check.returncode == 0, output


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("device=127.0.0.1:1", "requests come by the edge tier, whose worker is not given"),
        ("device=127.0.0.1:1 roof=127.0.0.1:2", "'roof=127.0.0.1:2' is not TIER=VALUE"),
        ("device=127.0.0.1:1 device=127.0.0.1:2", "the tier device is given twice"),
        ("", "told no workers in time"),
    ],
)
def test_workers_that_are_told_wrongly_are_named(told: str, message: str, small: str, tmp_path: Path) -> None:
    plan = plan_of(small, tmp_path, "relu1", "conv2")
    file = tmp_path / "workers"
    file.write_text(told)
    command = plan.command("--timeout-seconds", "3" if not told else "60", told=file)
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert message in msgspec.json.decode(done.stdout)["message"]


def test_workers_are_given_in_one_way(small: str, tmp_path: Path) -> None:
    plan = plan_of(small, tmp_path, "relu1", "conv2")
    command = plan.command("--workers-file", str(tmp_path / "workers"))
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "give either --worker, once per tier, or --workers-file" in done.stderr


def test_a_worker_that_has_another_segment_can_not_be_checked(start: Start, small: str, tmp_path: Path) -> None:
    plan = plan_of(small, tmp_path, "relu1", "conv2")
    other = tmp_path / "other"
    other.mkdir()
    later = plan_of(small, other, "conv2", "add")
    later.addresses = plan.addresses
    for tier in TIERS:
        start_worker_of(start, later, tier)
    checked = plan.check()
    assert checked.code == 2
    assert "it was started with another one" in checked.verdict["message"]


def test_a_model_that_is_gone_is_named_before_any_worker_is_there(small: str, tmp_path: Path) -> None:
    plan = plan_of(small, tmp_path, "relu1", "conv2")
    Path(small).unlink()
    checked = plan.check("--timeout-seconds", "3600")
    assert checked.code == 2
    assert small in checked.verdict["message"]


def test_a_check_that_is_stopped_says_so(small: str, tmp_path: Path) -> None:
    plan = plan_of(small, tmp_path, "relu1", "conv2")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        plan.addresses[Tier.DEVICE] = f"127.0.0.1:{silent.getsockname()[1]}"
        with subprocess.Popen(plan.command(), stdout=subprocess.PIPE, text=True) as check:
            silent.settimeout(60)
            connection, _ = silent.accept()  # it waits for the device now
            check.send_signal(signal.SIGTERM)
            output, _ = check.communicate(timeout=60)
            connection.close()
    assert check.returncode == 2
    assert "asked to stop" in msgspec.json.decode(output)["message"]


@pytest.mark.parametrize(
    ("without", "message"),
    [
        ("--worker cloud", "requests come by the cloud tier, whose worker is not given: add --worker cloud=HOST:PORT"),
        ("--descriptor cloud", "requests come by the cloud tier, whose descriptor is not given"),
    ],
)
def test_a_tier_that_is_left_out_is_named(without: str, message: str, small: str, tmp_path: Path) -> None:
    plan = plan_of(small, tmp_path, "relu1", "conv2")
    command = plan.command()
    flag, _, tier = without.partition(" ")
    place = next(at for at, text in enumerate(command) if text == flag and command[at + 1].startswith(f"{tier}="))
    del command[place : place + 2]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert message in msgspec.json.decode(done.stdout)["message"]


def test_descriptors_of_different_models_are_refused(small: str, tmp_path: Path) -> None:
    plan = plan_of(small, tmp_path, "relu1", "conv2")
    other = msgspec.structs.replace(
        plan.descriptors[Tier.CLOUD], model=descriptors.ModelReference(uri=small, identity="another")
    )
    plan.file(Tier.CLOUD).write_bytes(descriptors.encode(other))
    checked = plan.check()
    assert checked.code == 2
    assert "of different pipelines or models" in checked.verdict["message"]
