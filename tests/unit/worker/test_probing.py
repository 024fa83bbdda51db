"""When links are probed, how much that costs, and what comes of it; the clock and the neighbours are the test's."""

import asyncio
import io
import itertools
import random
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from factories.clocks import Clock
from tierflow.descriptor import Downstream, ModelReference, WorkerDescriptor
from tierflow.errors import UnreachableError
from tierflow.tiers import Tier
from tierflow_worker.links import CALL_BYTES, LARGE_BYTES, LinkEstimate, Transfer
from tierflow_worker.logs import Log
from tierflow_worker.metrics import Metrics
from tierflow_worker.probing import (
    BUSY_PAYLOAD_SECONDS,
    LARGEST_PAYLOAD,
    PAYLOAD_SECONDS,
    LinkWatch,
    Prober,
    neighbours_of,
    payload_size,
)

WIFI = (18.88e6 / 8, 0.020)


class SimulatedNeighbour:
    """Behind a link of known bandwidth and round trip; remembers what was sent when."""

    def __init__(self, clock: Clock, link: tuple[float, float]) -> None:
        self.clock, self.link, self.reachable = clock, link, True
        self.delays: Iterator[float] = itertools.repeat(0.0)
        self.lets_first_pass = False
        """Whether a message passes at once as long as the link owes nothing, as with Linux's token buckets."""
        self._free_at = 0.0
        self.pings: list[float] = []
        self.payloads: list[tuple[float, int]] = []

    def _transfer(self, size: int) -> Transfer:
        if not self.reachable:
            raise UnreachableError("nobody there")
        alone = (CALL_BYTES + size) / self.link[0]
        on_wire = alone
        if self.lets_first_pass:
            on_wire = max(0.0, self._free_at - self.clock.now) + (CALL_BYTES + size) / 1e9
            self._free_at = max(self._free_at, self.clock.now) + alone
        seconds = self.link[1] + on_wire + next(self.delays)
        self.clock.now += seconds
        return Transfer(size, 0, seconds)

    async def ping(self) -> Transfer:
        transfer = self._transfer(0)
        self.pings.append(self.clock.now)
        return transfer

    async def send(self, payload_bytes: int) -> Transfer:
        transfer = self._transfer(payload_bytes)
        self.payloads.append((self.clock.now, payload_bytes))
        return transfer

    async def close(self) -> None:
        pass


class World:
    """A prober of one link, and minutes that pass at once."""

    def __init__(self, link: tuple[float, float] = WIFI, *, max_message_bytes: int = 64 << 20) -> None:
        self.clock, self.idle, self.ready = Clock(100.0), True, True
        self.neighbour = SimulatedNeighbour(self.clock, link)
        self.metrics = Metrics(pipeline="p", namespace="n", tier=Tier.EDGE)
        self.watch = LinkWatch(
            self.metrics,
            tells_loss=lambda: self.ready,
            clock=self.clock,
            wall_clock=lambda: 1e9 + self.clock.now,
        )
        self.log = io.StringIO()
        self.prober = Prober(
            {Tier.CLOUD: self.neighbour},
            self.watch,
            is_idle=lambda: self.idle,
            log=Log("info", stream=self.log),
            max_message_bytes=max_message_bytes,
            clock=self.clock,
        )

    def pass_seconds(self, seconds: float, *, request_every: float | None = None) -> None:
        async def live() -> None:
            end, next_request = self.clock.now + seconds, self.clock.now
            while self.clock.now < end:
                if request_every is not None and self.clock.now >= next_request:
                    next_request += request_every
                    self.watch.transferred(Tier.CLOUD, self.neighbour._transfer(200_000))
                await self.prober.probe(Tier.CLOUD)
                self.clock.now += 0.25

        asyncio.run(live())

    def value(self, name: str) -> float | None:
        text = self.metrics.render()[0].decode()
        found = [
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        ]
        return found[0] if found else None


@pytest.mark.parametrize("link", [WIFI, (0.13e6 / 8, 0.1), (125e6, 0.0005)], ids=["wifi", "cat1", "ethernet"])
def test_an_idle_link_is_known_within_a_few_seconds(link: tuple[float, float]) -> None:
    world = World(link)
    world.pass_seconds(5)
    assert world.value("tierflow_link_bandwidth_bytes_per_second") == pytest.approx(link[0], rel=0.1)
    assert world.value("tierflow_link_round_trip_seconds") == pytest.approx(link[1], rel=0.1)
    assert world.value("tierflow_link_up") == 1
    measured = world.value("tierflow_link_measured_timestamp_seconds")
    assert measured is not None
    assert measured > 1e9


@pytest.mark.parametrize("link", [WIFI, (0.13e6 / 8, 0.1), (125e6, 0.0005)], ids=["wifi", "cat1", "ethernet"])
def test_probes_of_an_idle_link_cost_what_the_documentation_says(link: tuple[float, float]) -> None:
    world = World(link)
    world.pass_seconds(120)
    sent = sum(size for at, size in world.neighbour.payloads if at > world.clock.now - 60)
    assert sent <= 1 << 20
    assert sent <= 0.018 * 60 * link[0]
    assert len([at for at in world.neighbour.pings if at > world.clock.now - 60]) <= 6 * 3


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("link", [WIFI, (5.85e6 / 8, 0.040)], ids=["wifi", "4g"])
def test_a_machine_that_is_busy_half_of_the_time_does_not_make_a_link_look_slow(
    link: tuple[float, float], seed: int
) -> None:
    world, source = World(link), random.Random(seed)
    world.neighbour.delays = (source.uniform(0.0, 0.06) if source.random() < 0.5 else 0.0 for _ in itertools.count())
    world.pass_seconds(10)
    assert world.value("tierflow_link_bandwidth_bytes_per_second") == pytest.approx(link[0], rel=0.15)


def test_every_message_of_a_probe_is_counted() -> None:
    world = World()
    world.pass_seconds(60)
    sent = sum(size for _, size in world.neighbour.payloads)
    assert len(world.neighbour.payloads) > len({at // 1 for at, _ in world.neighbour.payloads}), "some in a row"
    assert world.value("tierflow_link_sent_bytes_total") == sent


def test_a_change_of_an_idle_link_is_followed() -> None:
    world = World()
    world.pass_seconds(60)
    world.neighbour.link = (WIFI[0] / 5, WIFI[1] * 3)
    world.pass_seconds(100)
    assert world.value("tierflow_link_bandwidth_bytes_per_second") == pytest.approx(WIFI[0] / 5, rel=0.1)
    assert world.value("tierflow_link_round_trip_seconds") == pytest.approx(WIFI[1] * 3, rel=0.1)


def test_a_link_that_requests_use_carries_no_payloads_and_few_pings() -> None:
    world = World()
    world.pass_seconds(20)
    payloads, pings = len(world.neighbour.payloads), len(world.neighbour.pings)
    world.neighbour.link = (WIFI[0] / 5, WIFI[1])
    world.pass_seconds(120, request_every=1.0)
    assert len(world.neighbour.payloads) == payloads
    assert len(world.neighbour.pings) - pings <= 2 * 3
    assert world.value("tierflow_link_bandwidth_bytes_per_second") == pytest.approx(WIFI[0] / 5, rel=0.1)


def test_a_worker_that_computes_sends_no_payload_for_a_while() -> None:
    world = World()
    world.idle = False
    world.pass_seconds(BUSY_PAYLOAD_SECONDS - PAYLOAD_SECONDS - 1)
    assert world.neighbour.payloads == []
    assert world.neighbour.pings, "a round trip disturbs nobody"


def test_a_worker_that_computes_all_the_time_measures_a_link_that_no_request_uses_a_little_later() -> None:
    world = World()
    world.pass_seconds(120)
    known = len(world.neighbour.payloads)
    world.idle = False
    world.neighbour.link = (WIFI[0] / 4, WIFI[1])
    world.pass_seconds(120)
    times = [at for at, _ in world.neighbour.payloads[known:]]
    pauses = [later - earlier for earlier, later in itertools.pairwise(times) if later - earlier > 5]
    assert pauses
    assert all(BUSY_PAYLOAD_SECONDS - 5 <= pause <= BUSY_PAYLOAD_SECONDS + 5 for pause in pauses)
    assert max(pauses) < 60  # within which the operator takes measurements for fresh, if the manifest says nothing
    assert world.watch.estimate(Tier.CLOUD).bytes_per_second == pytest.approx(WIFI[0] / 4, rel=0.2)


def test_a_worker_that_is_not_ready_tells_what_it_measures_but_not_that_a_neighbour_is_not_there_yet() -> None:
    world = World()
    world.ready = world.neighbour.reachable = False
    world.pass_seconds(30)
    assert world.value("tierflow_link_up") is None
    world.neighbour.reachable = True
    world.pass_seconds(5)
    assert world.value("tierflow_link_up") == 1
    assert world.value("tierflow_link_bandwidth_bytes_per_second") == pytest.approx(WIFI[0], rel=0.1)
    world.neighbour.reachable = False
    world.ready = True
    world.pass_seconds(15)
    assert world.value("tierflow_link_up") == 0


@pytest.mark.parametrize("link", [(1e6 / 8, 0.0002), (2e6 / 8, 0.02), (8e6 / 8, 0.0002)], ids=["1", "2", "8 Mbit/s"])
def test_what_passes_at_once_after_a_rest_is_not_taken_for_bandwidth(link: tuple[float, float]) -> None:
    world = World(link)
    world.neighbour.lets_first_pass = True
    world.pass_seconds(10)
    for _ in range(60):
        world.pass_seconds(2)
        assert world.value("tierflow_link_bandwidth_bytes_per_second") == pytest.approx(link[0], rel=0.25)


def test_a_neighbour_that_is_gone_and_comes_back_is_noticed_once() -> None:
    world = World()
    world.neighbour.reachable = False
    world.pass_seconds(30)
    assert world.value("tierflow_link_up") == 0
    assert world.value("tierflow_link_bandwidth_bytes_per_second") is None
    world.neighbour.reachable = True
    world.pass_seconds(5)
    assert world.value("tierflow_link_up") == 1
    assert world.value("tierflow_link_bandwidth_bytes_per_second") == pytest.approx(WIFI[0], rel=0.1)
    assert world.log.getvalue().count("link down") == 1
    assert world.log.getvalue().count("link up") == 1


def test_payloads_are_bounded_whatever_the_link_is() -> None:
    assert payload_size(LinkEstimate(None, None, None)) == LARGE_BYTES
    assert payload_size(LinkEstimate(1.0, 1.0, 1.0)) == LARGE_BYTES
    assert payload_size(LinkEstimate(1e12, 1e-6, 1.0)) == LARGEST_PAYLOAD


@pytest.mark.parametrize("most", [1024, 64 * 1024])
def test_payloads_stay_below_the_largest_message(most: int) -> None:
    world = World((125e6, 0.0005), max_message_bytes=most)
    world.pass_seconds(30)
    assert world.neighbour.payloads
    assert max(size for _, size in world.neighbour.payloads) <= most / 2


@pytest.mark.asyncio
async def test_probing_ends_when_it_is_cancelled() -> None:
    world = World()
    task = asyncio.create_task(world.prober.run())
    async with asyncio.timeout(5):
        while not world.neighbour.pings:
            await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.asyncio
async def test_a_standby_probes_the_neighbours_that_its_descriptor_names() -> None:
    descriptor = WorkerDescriptor(
        pipeline="p",
        namespace="n",
        tier=Tier.DEVICE,
        model=ModelReference(uri="zoo://x", identity="x"),
        inputs=(),
        outputs=(),
        probes=(
            Downstream(tier=Tier.EDGE, address="127.0.0.1:1"),
            Downstream(tier=Tier.CLOUD, address="127.0.0.1:2"),
        ),
    )
    neighbours = neighbours_of(descriptor, max_message_bytes=1 << 20)
    assert set(neighbours) == {Tier.EDGE, Tier.CLOUD}
    with pytest.raises(UnreachableError, match=r"edge at 127\.0\.0\.1:1 did not answer a probe"):
        await neighbours[Tier.EDGE].ping()
    for neighbour in neighbours.values():
        await neighbour.close()
