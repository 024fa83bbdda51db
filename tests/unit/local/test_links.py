"""The proxies: what they forward, how they shape it, and where they send it."""

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tierflow.errors import InvalidInputError
from tierflow.network import MEGABIT, Link
from tierflow_local.links import HOST, Proxies, Traffic


class Server:
    """Answers each connection by what `answer` makes of everything that it was sent."""

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self._answer = answer
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                received = b""
                while data := connection.recv(1 << 20):
                    received += data
                connection.sendall(self._answer(received))

    def close(self) -> None:
        # A thread that waits in accept keeps the port open until it is woken.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def proxies() -> Iterator[Proxies]:
    with Proxies() as opened:
        yield opened


@pytest.fixture
def echo() -> Iterator[Server]:
    server = Server(lambda received: received)
    yield server
    server.close()


def exchange(port: int, data: bytes) -> tuple[bytes, float]:
    """What comes back, and after how many seconds."""
    began = time.perf_counter()
    with socket.create_connection((HOST, port), timeout=30) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        received = b""
        while part := client.recv(1 << 20):
            received += part
    return received, time.perf_counter() - began


def wait_for_bytes(proxies: Proxies) -> None:
    deadline = time.monotonic() + 10
    while proxies.traffic("a").up == 0 and time.monotonic() < deadline:
        time.sleep(0.005)


def test_bytes_come_through_unchanged_and_are_counted_each_way(proxies: Proxies) -> None:
    server = Server(lambda received: received[:1000])
    port = proxies.open("a", link=Link(bytes_per_second=50e6, round_trip_seconds=0.001))
    proxies.set_target("a", server.port)
    data = bytes(range(256)) * 4096
    assert exchange(port, data)[0] == data[:1000]
    assert proxies.traffic("a") == Traffic(up=len(data), down=1000)
    assert proxies.traffic("a").since(Traffic(48576, 0)) == Traffic(1_000_000, 1000)
    server.close()


@pytest.mark.parametrize("megabits", [8, 80, 400])
def test_two_sizes_differ_in_time_as_the_bandwidth_says(proxies: Proxies, megabits: int) -> None:
    server = Server(lambda _: b"")
    port = proxies.open("a", link=Link(bytes_per_second=megabits * MEGABIT, round_trip_seconds=0.004))
    proxies.set_target("a", server.port)
    unit = int(megabits * MEGABIT * 0.1)  # what crosses in 0.1 s
    # What disturbs a transfer only adds to its time, so the fastest of several is the truest.
    small, large = (min(exchange(port, bytes(size))[1] for _ in range(4)) for size in (unit, 3 * unit))
    assert large - small == pytest.approx(0.2, rel=0.25)
    server.close()


def test_a_round_trip_is_paid_half_each_way(proxies: Proxies, echo: Server) -> None:
    near = proxies.open("near", link=Link(bytes_per_second=1e9, round_trip_seconds=0.0))
    far = proxies.open("far", link=Link(bytes_per_second=1e9, round_trip_seconds=0.2))
    for name in ("near", "far"):
        proxies.set_target(name, echo.port)
    short, long = (min(exchange(port, b"x")[1] for _ in range(4)) for port in (near, far))
    assert long - short == pytest.approx(0.2, rel=0.25)


def test_connections_share_a_link(proxies: Proxies) -> None:
    server = [Server(lambda _: b"") for _ in range(2)]
    port = proxies.open("a", link=Link(bytes_per_second=4e6, round_trip_seconds=0.0))
    proxies.set_target("a", server[0].port)
    alone = exchange(port, bytes(400_000))[1]
    times: list[float] = []
    threads = [threading.Thread(target=lambda: times.append(exchange(port, bytes(400_000))[1])) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(times) > 1.5 * alone
    for each in server:
        each.close()


def test_targets_beside_each_other_share_one_link(proxies: Proxies) -> None:
    servers = [Server(lambda _: b"") for _ in range(2)]
    link = Link(bytes_per_second=4e6, round_trip_seconds=0.0)
    ports = [proxies.open(name, link=link, beside="a") for name in ("a", "b")]
    for name, server in zip(("a", "b"), servers, strict=True):
        proxies.set_target(name, server.port)
    times: list[float] = []
    threads = [
        threading.Thread(target=lambda port=port: times.append(exchange(port, bytes(400_000))[1])) for port in ports
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(times) > 0.18  # 800 kB over 4 MB/s; each alone takes half of that
    assert proxies.traffic("a") == proxies.traffic("b") == Traffic(up=800_000, down=0)
    for server in servers:
        server.close()


def test_a_link_can_be_changed_while_data_flows(proxies: Proxies, echo: Server) -> None:
    slow = Link(bytes_per_second=10_000, round_trip_seconds=0.0)
    port = proxies.open("a", link=slow)
    proxies.set_target("a", echo.port)
    done: list[bytes] = []
    thread = threading.Thread(target=lambda: done.append(exchange(port, bytes(1_000_000))[0]))
    thread.start()
    wait_for_bytes(proxies)
    proxies.set_link("a", None)  # at the old rate it would take more than three minutes
    thread.join(timeout=60)
    assert done == [bytes(1_000_000)]


def test_new_connections_follow_the_target_and_open_ones_stay(proxies: Proxies) -> None:
    first, second = Server(lambda _: b"first"), Server(lambda _: b"second")
    port = proxies.open("a")
    proxies.set_target("a", first.port)
    with socket.create_connection((HOST, port), timeout=10) as early:
        early.sendall(b"x")
        wait_for_bytes(proxies)
        proxies.set_target("a", second.port)
        assert exchange(port, b"x")[0] == b"second"
        early.shutdown(socket.SHUT_WR)
        assert early.recv(100) == b"first"
    first.close()
    second.close()


def test_a_proxy_without_a_target_or_with_a_dead_one_closes_the_connection(proxies: Proxies) -> None:
    port = proxies.open("a")
    with socket.create_connection((HOST, port), timeout=10) as client:
        assert client.recv(1) == b""
    gone = Server(lambda _: b"")
    gone.close()
    proxies.set_target("a", gone.port)
    with socket.create_connection((HOST, port), timeout=10) as client:
        assert client.recv(1) == b""


def test_a_port_in_use_is_named(proxies: Proxies) -> None:
    port = proxies.open("a")
    with pytest.raises(InvalidInputError, match=f"port {port} of 127.0.0.1 is in use; choose another") as raised:
        proxies.open("b", port=port)
    assert raised.value.subject == f"port {port}"


def test_closing_frees_the_ports_and_ends_connections(echo: Server) -> None:
    proxies = Proxies()
    port = proxies.open("a")
    proxies.set_target("a", echo.port)
    client = socket.create_connection((HOST, port), timeout=10)
    client.sendall(b"x")
    wait_for_bytes(proxies)
    proxies.close()
    proxies.close()
    with client:
        assert client.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, port), timeout=10)
