"""What a deleted pipeline leaves to one of the same name.

For a moment that is all of its objects, until they are collected. Nothing of that is taken over: its record tells of
plans that the new pipeline never had, and what is collected while it is used takes workers away in the middle of a
move. So the new one begins once the last of it is gone. But what was to stay when the old one was deleted
(`--cascade=orphan`) belongs to nobody since, and goes on as the new one's.
"""

from collections.abc import Iterable
from typing import Final

from tierflow.manifest import API_VERSION, KIND, InferencePipeline
from tierflow_operator.graphs import MODEL_COMPONENT
from tierflow_operator.pods import Manifest
from tierflow_operator.record import RECORD_COMPONENT
from tierflow_operator.render import component_of, metadata_of
from tierflow_operator.status import Problem

_GROUP: Final = API_VERSION.partition("/")[0]
_NAMED: Final = 3
_OF_A_CONFIG_MAP: Final = ("apiVersion", "kind", "immutable", "data", "binaryData")


def left_behind(pipeline: InferencePipeline, live: Iterable[Manifest]) -> tuple[Manifest, ...]:
    """The objects that belong to another pipeline, which can only be one that had this name before.

    Args:
        pipeline: What the user wants.
        live: All objects with the pipeline's label.
    """
    if not pipeline.metadata.uid:
        return ()
    return tuple(entry for entry in live if (owners := _pipelines_of(entry)) and pipeline.metadata.uid not in owners)


def orphans(live: Iterable[Manifest]) -> tuple[Manifest, ...]:
    """The objects that belong to nobody."""
    return tuple(entry for entry in live if not entry["metadata"].get("ownerReferences"))


def adopted(pipeline: InferencePipeline, live: Iterable[Manifest]) -> tuple[Manifest, ...]:
    """The ConfigMaps that keep the record and the model, where they belong to nobody, as the pipeline's own.

    All others are rendered, and become its own by that.

    Args:
        pipeline: What the user wants.
        live: All objects with the pipeline's label.
    """
    return tuple(
        {name: entry[name] for name in _OF_A_CONFIG_MAP if name in entry}
        | {"metadata": metadata_of(pipeline, entry["metadata"]["name"], component_of(entry))}
        for entry in orphans(live)
        if entry["kind"] == "ConfigMap" and component_of(entry) in (RECORD_COMPONENT, MODEL_COMPONENT)
    )


def waiting_for(left: Iterable[Manifest]) -> Problem:
    """Why a pipeline isn't planned yet for which something is left behind."""
    names = [f"{entry['kind']} {entry['metadata']['name']}" for entry in left]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    message = (
        "begins once all that a deleted pipeline of this name had is gone, which Kubernetes' garbage collector sees "
        f"to; left are {', '.join(names[:_NAMED])}{more}"
    )
    return Problem("PredecessorLeaving", message, stalled=False)


def _pipelines_of(manifest: Manifest) -> set[str]:
    """The uids of the pipelines that own an object."""
    return {
        owner["uid"]
        for owner in manifest["metadata"].get("ownerReferences") or ()
        if owner["kind"] == KIND and str(owner["apiVersion"]).partition("/")[0] == _GROUP
    }
