"""What has to be done so that the live objects become the wanted ones, in the order in which it is safe."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Any, Final

from tierflow.tiers import TIERS, Tier
from tierflow_operator.descriptors import TILES
from tierflow_operator.pods import Manifest
from tierflow_operator.render import component_of

Key = tuple[str, str, str]
"""An object's kind, namespace and name."""

_KINDS: Final = ("ServiceAccount", "PodDisruptionBudget", "ConfigMap", "Service", "Deployment")
"""In the order in which they are created: what a worker needs comes before it."""

_COMPONENTS: Final = (Tier.CLOUD, TILES, Tier.EDGE, Tier.DEVICE)
"""In the order in which workers change, behind the entry: who is asked comes before who asks."""

_RESOURCE: Final = re.compile(r"\.resources\.(requests|limits)\.")
_QUANTITY: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|[kMGTPE]?|[KMGTPE]i)\Z")
_SUFFIXES: Final = {
    "m": Fraction(1, 1000), "": Fraction(1),
    **{suffix: Fraction(1000) ** power for power, suffix in enumerate("kMGTPE", 1)},
    **{f"{suffix}i": Fraction(1024) ** power for power, suffix in enumerate("KMGTPE", 1)},
}  # fmt: skip


class Action(StrEnum):
    """What is done with an object."""

    CREATE = "Create"
    REPLACE = "Replace"
    DELETE = "Delete"


@dataclass(frozen=True, slots=True)
class Change:
    """One step.

    Attributes:
        action: What is done.
        manifest: The wanted object; for `DELETE` the live one.
        fields: For `REPLACE`, paths of the fields that differ.
    """

    action: Action
    manifest: Manifest
    fields: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        """The object that it is about."""
        return key_of(self.manifest)


def key_of(manifest: Manifest) -> Key:
    """An object's kind, namespace and name."""
    metadata = manifest["metadata"]
    return manifest["kind"], metadata.get("namespace", ""), metadata["name"]


def tier_of(manifest: Manifest) -> Tier | None:
    """The tier that a rendered object belongs to; None for the entry, and for tile workers."""
    component = component_of(manifest)
    return Tier(component) if component in list(TIERS) else None


def changes(wanted: Iterable[Manifest], live: Iterable[Manifest]) -> tuple[Change, ...]:
    """The steps from the live to the wanted objects.

    Created and replaced first: ConfigMaps, Services, then Deployments from the cloud down to the device, the tile
    workers' before the edge's, so that no worker sends to one that doesn't know what is sent. Deleted last, once
    nothing uses them any more.

    Args:
        wanted: All objects of a pipeline, as rendered.
        live: All that exist of it; fields that the cluster added don't count as a difference.
    """
    wanted_by_key = {key_of(manifest): manifest for manifest in wanted}
    live_by_key = {key_of(manifest): manifest for manifest in live}
    steps: list[Change] = []
    for key, manifest in wanted_by_key.items():
        if key not in live_by_key:
            steps.append(Change(Action.CREATE, manifest))
        elif fields := tuple(_differing(manifest, live_by_key[key], "")):
            steps.append(Change(Action.REPLACE, manifest, fields))
    deleted = [Change(Action.DELETE, manifest) for key, manifest in live_by_key.items() if key not in wanted_by_key]
    return (*sorted(steps, key=_order), *sorted(deleted, key=_order))


def _order(change: Change) -> tuple[int, int, Key]:
    kind = change.manifest["kind"]
    place = _KINDS.index(kind) if kind in _KINDS else len(_KINDS)
    component = component_of(change.manifest)
    return place, _COMPONENTS.index(component) if component in _COMPONENTS else -1, change.key


def _differing(wanted: Any, live: Any, path: str) -> Iterable[str]:
    """Paths of the wanted fields that are otherwise, or not there, in the live object."""
    if isinstance(wanted, Mapping) and isinstance(live, Mapping):
        for name, value in wanted.items():
            yield from _differing(value, live.get(name), f"{path}.{name}".removeprefix("."))
    elif _is_list(wanted) and _is_list(live) and len(wanted) == len(live):
        for place, (value, other) in enumerate(zip(wanted, live, strict=True)):
            yield from _differing(value, other, f"{path}[{place}]")
    elif wanted != live and not (_RESOURCE.search(path) and _amount(wanted) == _amount(live)):
        yield path


def _amount(quantity: object) -> Fraction | None:
    """A quantity as a number, since the API server rewrites them (0.5 as 500m, 1024Mi as 1Gi); None for other texts."""
    match = _QUANTITY.match(str(quantity))
    return None if match is None else Fraction(match[1]) * _SUFFIXES[match[2]]


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
