"""What it costs to read a model's graph, and to cut a segment out of it."""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figure import Figure, at_most
from tierflow.model import open_model
from tierflow.model.extract import whole_model

_ROUNDS = 5
_MEMORY_GOAL = 150  # MB, of the specification
_MEGABYTE = 1e6

_READ = """
import json, sys, time
import onnx

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024

before = peak()
began = time.perf_counter()
from tierflow.model import open_model
graph = open_model(sys.argv[1]).graph
print(json.dumps({"seconds": time.perf_counter() - began, "bytes": peak() - before, "layers": len(graph.layers)}))
"""

_CUT = """
import json, sys, time
from pathlib import Path
import onnx
from tierflow.graph import decode_graph
from tierflow.model import open_model
from tierflow.model.extract import extract_segment

graph = decode_graph(Path(sys.argv[2]).read_bytes())
target = Path(sys.argv[3])
began = time.perf_counter()
model = open_model(sys.argv[1])
extract_segment(model, graph.inputs, graph.outputs, target, tensors=graph.tensors)
print(json.dumps({"seconds": time.perf_counter() - began}))
"""


def figures() -> Iterator[Figure]:
    """Reads VGG-16 (550 MB) and cuts ResNet-18 (47 MB) in processes of their own."""
    with tempfile.TemporaryDirectory() as folder:
        yield from _reading(Path(folder))
        yield from _cutting(Path(folder))


def _reading(folder: Path) -> Iterator[Figure]:
    path = folder / "vgg16.onnx"
    whole_model(open_model("zoo://vgg16"), path)
    runs = [_run(_READ, path) for _ in range(_ROUNDS)]
    yield Figure("graph", "size of VGG-16's file", path.stat().st_size / _MEGABYTE, "MB")
    memory = max(run["bytes"] for run in runs) / _MEGABYTE
    yield at_most("graph", "resident memory to read VGG-16, over Python with onnx", memory, "MB", _MEMORY_GOAL)
    seconds = statistics.median(run["seconds"] for run in runs)
    yield Figure("graph", "time to read VGG-16's graph", seconds * 1000, "ms")


def _cutting(folder: Path) -> Iterator[Figure]:
    from tierflow.graph import encode_graph

    model = open_model("zoo://resnet18")
    path, graph = folder / "resnet18.onnx", folder / "graph.json"
    whole_model(model, path)
    graph.write_bytes(encode_graph(model.graph))
    yield Figure("graph", "size of ResNet-18's graph as JSON", graph.stat().st_size / 1000, "kB")
    runs = [_run(_CUT, path, graph, folder / f"segment{number}.onnx") for number in range(_ROUNDS)]
    seconds = statistics.median(run["seconds"] for run in runs)
    yield Figure("graph", "time to open ResNet-18's file and cut out all of it", seconds * 1000, "ms")


def _run(code: str, *arguments: Path) -> dict[str, float]:
    child = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    measured: dict[str, float] = json.loads(child.stdout)
    return measured
