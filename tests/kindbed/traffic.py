"""Requests from this machine by a standard client, and from a pod; each answer is compared with the whole model's."""

import json
import math
import statistics
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from tritonclient import grpc as triton

from kindbed.cluster import Cluster, Manifest
from tierflow.model import open_model
from tierflow_worker.verification import TOLERANCE, relative_difference, sample_inputs, whole_outputs

# What gRPC's own retries are told, as any client can: five attempts at the most while the server is unavailable.
_RETRIES: Final = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{"service": "inference.GRPCInferenceService"}],
                "waitForReady": True,
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 2.5,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)
_RETRY_BUFFER_BYTES: Final = 16 * 1024 * 1024
_REQUEST_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 0.05

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Task:
    """A request and the whole model's answer to it."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]

    def difference(self, answer: dict[str, Array]) -> float:
        """Largest difference, relative to the largest value; infinite where an output is missing."""
        if answer.keys() != self.outputs.keys():
            return math.inf
        return max(relative_difference(answer[name], wanted) for name, wanted in self.outputs.items())


def task_of(uri: str = "zoo://resnet18") -> Task:
    """A request to a model, with the answer that ONNX Runtime gives to it on this machine."""
    model = open_model(uri)
    inputs = sample_inputs(model)
    return Task(inputs, whole_outputs(model, inputs))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request: when it was sent and answered (`time.monotonic`), how far off, or why not at all."""

    sent: float
    answered: float
    difference: float = math.inf
    error: str = ""


class HostClient:
    """tritonclient on this machine, by a NodePort of the control plane's node."""

    def __init__(self, address: str, pipeline: str, task: Task) -> None:
        self._pipeline = pipeline
        self._task = task
        self._client = triton.InferenceServerClient(
            address,
            channel_args=[
                ("grpc.service_config", _RETRIES),
                ("grpc.enable_retries", 1),
                # A request that doesn't fit is never sent again; the default holds less than an image.
                ("grpc.per_rpc_retry_buffer_size", _RETRY_BUFFER_BYTES),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1000),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
            ],
        )
        self._inputs = []
        for name, array in task.inputs.items():
            tensor = triton.InferInput(name, list(array.shape), "FP32")
            tensor.set_data_from_numpy(array)
            self._inputs.append(tensor)

    def ask(self) -> Outcome:
        """Sends the request, and says what became of it."""
        sent = time.monotonic()
        try:
            result = self._client.infer(self._pipeline, self._inputs, client_timeout=_REQUEST_SECONDS)
        except Exception as error:
            return Outcome(sent, time.monotonic(), error=f"{type(error).__name__}: {error}")
        answered = time.monotonic()
        arrays = {name: result.as_numpy(name) for name in self._task.outputs}
        return Outcome(sent, answered, self._task.difference({n: a for n, a in arrays.items() if a is not None}))

    def close(self) -> None:
        """Ends its connections."""
        self._client.close()


class Load:
    """Clients that ask one request after the other, in the background; a context manager.

    Args:
        address: Where.
        pipeline: Whom.
        task: What.
        clients: How many.
        every: Each client's seconds from one request to the next, where answers come sooner; 0 is as fast as they come.
    """

    def __init__(self, address: str, pipeline: str, task: Task, clients: int = 2, every: float = 0.0) -> None:
        self._every = every
        self._clients = [HostClient(address, pipeline, task) for _ in range(clients)]
        self._stop = threading.Event()
        self._outcomes: list[Outcome] = []
        self._threads = [threading.Thread(target=self._run, args=(client,)) for client in self._clients]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for client in self._clients:
            client.close()

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """What became of all requests so far."""
        return tuple(self._outcomes)

    @property
    def failed(self) -> list[Outcome]:
        """Those that weren't answered, whatever the client tried."""
        return [outcome for outcome in self.outcomes if outcome.error]

    @property
    def wrong(self) -> list[Outcome]:
        """Those whose answer isn't the whole model's."""
        return [outcome for outcome in self.outcomes if not outcome.error and not outcome.difference <= TOLERANCE]

    def answered_since(self, moment: float) -> int:
        """How many requests that were sent after a moment have been answered."""
        return sum(1 for outcome in self.outcomes if outcome.sent > moment and not outcome.error)

    def quantile(self, part: float, since: float = -math.inf, until: float = math.inf) -> float:
        """Seconds within which this part of the answers was there, of requests sent within a time."""
        seconds = [o.answered - o.sent for o in self.outcomes if since <= o.sent <= until and not o.error]
        return statistics.quantiles(seconds, n=100, method="inclusive")[round(part * 100) - 1]

    def _run(self, client: HostClient) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(_PAUSE_SECONDS, due - time.monotonic())):
            due = time.monotonic() + self._every
            self._outcomes.append(client.ask())


def open_node_port(cluster: Cluster, pipeline: str, namespace: str = "default") -> str:
    """Makes a NodePort Service to a pipeline's device workers; returns its gRPC address for this machine."""
    selector = {"tierflow.dev/pipeline": pipeline, "app.kubernetes.io/component": "device"}
    name = f"{pipeline}-from-outside"
    service: Manifest = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"type": "NodePort", "selector": selector, "ports": [{"port": 8001, "targetPort": "grpc"}]},
    }
    cluster.apply(service, namespace=namespace)
    port = cluster.get("service", name, namespace)["spec"]["ports"][0]["nodePort"]
    return f"{cluster.address(cluster.control_plane)}:{port}"


_POD_CLIENT: Final = """
import json, sys, urllib.request
import numpy
from tierflow.model import open_model
from tierflow_worker.verification import sample_inputs

pipeline, uri = sys.argv[1:]
inputs = [
    {"name": name, "shape": list(array.shape), "datatype": "FP32", "data": array.ravel().tolist()}
    for name, array in sample_inputs(open_model(uri)).items()
]
request = urllib.request.Request(
    f"http://{pipeline}:8000/v2/models/{pipeline}/infer",
    json.dumps({"inputs": inputs}).encode(),
    {"Content-Type": "application/json"},
)
sys.stdout.write(urllib.request.urlopen(request, timeout=60).read().decode())
"""


def ask_from_a_pod(
    cluster: Cluster, pipeline: str, uri: str, image: str, namespace: str = "default"
) -> dict[str, Array]:
    """A pipeline's answer to the sample inputs, asked over REST by a pod of the pipeline's namespace."""
    name = f"client-of-{pipeline}"
    pod: Manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "containers": [
                {"name": "client", "image": image, "command": ["python", "-c", _POD_CLIENT, pipeline, uri]},
            ],
        },
    }
    cluster.kubectl("delete", "pod", name, "-n", namespace, "--ignore-not-found", "--wait")
    cluster.apply(pod, namespace=namespace)

    def ended() -> bool:
        return cluster.get("pod", name, namespace)["status"].get("phase") in ("Succeeded", "Failed")

    cluster.wait_for(f"{name} done", ended, 120)
    said = cluster.kubectl("logs", name, "-n", namespace)
    cluster.kubectl("delete", "pod", name, "-n", namespace)
    answer = json.loads(said)
    return {
        output["name"]: np.array(output["data"], np.float32).reshape(output["shape"]) for output in answer["outputs"]
    }
