"""The graph of each pipeline's model: read once from the model's file, then kept in a ConfigMap, never the weights.

The ConfigMap `<pipeline>-model-<hash>` outlives the operator, so that a restart reads no model again. Models of the zoo
are made in milliseconds and kept in memory alone.
"""

import base64
import gzip
import hashlib
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from tierflow.errors import InvalidInputError
from tierflow.estimate import estimate_profile
from tierflow.graph import Graph, decode_graph, encode_graph
from tierflow.manifest import InferencePipeline, ModelSpec
from tierflow.manifest_values import input_shapes_of
from tierflow.model import open_model
from tierflow.profile import Profile
from tierflow_operator.pods import Manifest
from tierflow_operator.render import metadata_of

MODEL_COMPONENT: Final = "model"
_IDENTITY: Final = "identity"
_GRAPH: Final = "graph.json.gz"
_KEPT_IN_MEMORY: Final = 64
_LARGEST_BYTES: Final = 700_000
"""Of a compressed graph: a ConfigMap takes 1 MiB, and base64 a third more."""
_ZOO: Final = "zoo://"


@dataclass(frozen=True, slots=True)
class KnownModel:
    """What planning needs of a model.

    Attributes:
        identity: See `tierflow.model.model.Model.identity`.
        graph: Its layers.
        profile: Their estimated times on the reference machine.
    """

    identity: str
    graph: Graph
    profile: Profile


class Graphs:
    """The models of all pipelines; safe to call from any thread.

    Args:
        folder: For a model's file while it is read; None for the system's place for such.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._models: OrderedDict[str, KnownModel] = OrderedDict()
        self._lock = threading.Lock()

    def known(self, pipeline: InferencePipeline, owned: Iterable[Manifest]) -> KnownModel | None:
        """The model as far as it was read before: from memory, or the pipeline's own ConfigMap; None where it wasn't.

        Args:
            pipeline: Whose model.
            owned: The pipeline's objects.
        """
        model = pipeline.spec.model
        if model.uri.startswith(_ZOO):
            return self._remembered(_key(model))
        name = _name(pipeline)
        kept = next((entry for entry in owned if entry["kind"] == "ConfigMap" and _is_named(entry, name)), None)
        if kept is None:
            return None
        try:
            identity = str(kept["data"][_IDENTITY])
            found = self._remembered(identity)
            if found is None:
                graph = decode_graph(gzip.decompress(base64.b64decode(kept["binaryData"][_GRAPH])))
                found = self._remember(identity, KnownModel(identity, graph, estimate_profile(graph, identity)))
        except (KeyError, TypeError, ValueError, OSError, InvalidInputError):
            return None  # somebody changed it: it is read again
        return found

    def read(self, pipeline: InferencePipeline) -> tuple[KnownModel, Manifest | None]:
        """Reads the model, which may take as long as its file takes to come, and what to keep of it.

        Returns:
            The model, and the ConfigMap that keeps it; None where it isn't to be kept.

        Raises:
            TierflowError: where it can't be had or isn't what the manifest says.
        """
        spec = pipeline.spec.model
        with tempfile.TemporaryDirectory(prefix="tierflow-model-", dir=self._folder) as cache:
            opened = open_model(spec.uri, sha256=spec.sha256, input_shapes=input_shapes_of(spec), cache_dir=Path(cache))
            identity, graph = opened.identity, opened.graph
        model = KnownModel(identity, graph, estimate_profile(graph, identity))
        if spec.uri.startswith(_ZOO):
            return self._remember(_key(spec), model), None
        self._remember(identity, model)
        packed = base64.b64encode(gzip.compress(encode_graph(graph), mtime=0)).decode()
        if len(packed) > _LARGEST_BYTES:
            return model, None
        return model, {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata_of(pipeline, _name(pipeline), MODEL_COMPONENT),
            "immutable": True,
            "data": {_IDENTITY: identity},
            "binaryData": {_GRAPH: packed},
        }

    def _remembered(self, key: str) -> KnownModel | None:
        with self._lock:
            found = self._models.get(key)
            if found is not None:
                self._models.move_to_end(key)
            return found

    def _remember(self, key: str, model: KnownModel) -> KnownModel:
        with self._lock:
            # Pipelines of the same model share one graph.
            kept = self._models.setdefault(key, model)
            while len(self._models) > _KEPT_IN_MEMORY:
                self._models.popitem(last=False)
            return kept


def _name(pipeline: InferencePipeline) -> str:
    return f"{pipeline.name}-{MODEL_COMPONENT}-{_key(pipeline.spec.model)}"


def _key(model: ModelSpec) -> str:
    return hashlib.sha256(msgspec.json.encode(model, order="deterministic")).hexdigest()[:10]


def _is_named(manifest: Manifest, name: str) -> bool:
    return bool(manifest["metadata"]["name"] == name)
