"""Pods that are told at once of what is new in their volumes, by a change of their annotations.

A kubelet looks at the volumes of a running pod about once a minute, and at those of one that changed at once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tierflow_operator.descriptors import TILES
from tierflow_operator.pods import APPROVAL_SUFFIX, Manifest
from tierflow_operator.rollout import is_ready, pods_of
from tierflow_operator.scene import Scene

APPROVED_ANNOTATION: Final = "tierflow.dev/approved"
"""On a pod whose approval is new: what changes a pod has the kubelet look at its volumes at once."""
NUDGED_ANNOTATION: Final = "tierflow.dev/nudged"
"""On such a pod: how often it was changed for that, and when last, in seconds of the Unix epoch."""

NUDGE_SECONDS: Final = 0.2
"""After so long a pod that was nudged and isn't ready yet is nudged again, a few times."""
_TELLING_SECONDS: Final = 1.0
"""The same for a pod that was told whom to check: most have their answer by then."""
_MOST_NUDGES: Final = 5


@dataclass(frozen=True, slots=True)
class Nudge:
    """A pod, and annotations for it: changing a pod has its kubelet look at its volumes at once."""

    pod: Manifest
    annotations: Mapping[str, str]


def to_nudge(scene: Scene) -> tuple[Nudge, ...]:
    """Pods that don't know yet that they are approved: those that were there before their approval.

    The kubelet that sees a changed pod asks it at once whether it is ready, mounts what is new only then, and asks
    again a second later; unless the pod has changed once more meanwhile.
    """
    approved_at = {
        entry["metadata"]["name"].removesuffix(APPROVAL_SUFFIX): str(entry["metadata"].get("creationTimestamp", ""))
        for entry in scene.live
        if entry["kind"] == "ConfigMap" and entry["metadata"]["name"].endswith(APPROVAL_SUFFIX)
    }
    nudges: list[Nudge] = []
    for name, pod in _unready_but_approved(scene):
        nudged, at = _nudged_before(pod, name)
        if not nudged and str(pod["metadata"].get("creationTimestamp", "")) > approved_at.get(name, "~"):
            continue  # it has found its approval at its start
        if nudged < _MOST_NUDGES and scene.now >= at + NUDGE_SECONDS:
            nudges.append(Nudge(pod, _annotations(name, nudged + 1, scene.now)))
    return tuple(nudges)


def _unready_but_approved(scene: Scene) -> Iterator[tuple[str, Manifest]]:
    """Pods whose descriptor is in force and that take no requests yet, each with the descriptor's name."""
    for component, name in scene.config_maps.items():
        if component != TILES and scene.record.in_force.get(component) == name:
            for pod in pods_of(scene.live, component, name):
                if not is_ready(pod):
                    yield name, pod


def is_nudging(scene: Scene) -> bool:
    """Whether pods were nudged that may have to be again."""
    return any(0 < _nudged_before(pod, name)[0] < _MOST_NUDGES for name, pod in _unready_but_approved(scene))


def tell(check: Manifest, workers: Mapping[str, str], now: float) -> tuple[Nudge, ...]:
    """Tells the pod that checks of its workers, by the annotations `workers`."""
    return (Nudge(check, {**workers, NUDGED_ANNOTATION: _counted(1, now)}),)


def tell_again(check: Manifest, now: float) -> tuple[Nudge, ...]:
    """Has the kubelet of a pod that was told of its workers, and doesn't end, look at its volumes once more.

    One that is just starting the container may miss a change, and would look again after a minute.
    """
    count, at = _count(check)
    if is_telling(check) and now >= at + _TELLING_SECONDS:
        return (Nudge(check, {NUDGED_ANNOTATION: _counted(count + 1, now)}),)
    return ()


def is_telling(check: Manifest) -> bool:
    """Whether a pod was told whom to check after it was made, and may have to be told again."""
    return 0 < _count(check)[0] < _MOST_NUDGES


def _annotations(approved: str, count: int, now: float) -> dict[str, str]:
    """What a pod gets whose descriptor was approved: which one, how often it has been told now, and when."""
    return {APPROVED_ANNOTATION: approved, NUDGED_ANNOTATION: _counted(count, now)}


def _counted(count: int, now: float) -> str:
    return f"{count} {now:.2f}"


def _nudged_before(pod: Manifest, approved: str) -> tuple[int, float]:
    """How often a pod was told of an approval, and when last; none where that can't be read."""
    annotations = pod["metadata"].get("annotations") or {}
    return _count(pod) if annotations.get(APPROVED_ANNOTATION) == approved else (0, 0.0)


def _count(pod: Manifest) -> tuple[int, float]:
    """How often a pod was changed for its volumes, and when last; none where that can't be read."""
    annotations = pod["metadata"].get("annotations") or {}
    count, _, at = str(annotations.get(NUDGED_ANNOTATION, "")).partition(" ")
    try:
        return int(count), float(at)
    except ValueError:
        return 0, 0.0
