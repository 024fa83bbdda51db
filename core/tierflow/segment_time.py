"""The time of a segment from a profile: the sum of its layers, and what tearing it out of the model costs.

A runtime that runs a segment can't do all that it does with the whole model. What arrives is an ordinary tensor, where
the whole model would have had a native one (see `tierflow.profile.Profile`): layers that were fused with the one that
makes it now run alone, and what they make is ordinary in turn, so that the loss goes on until a layer makes a native
tensor of anything (a convolution does). What is sent on has to be made ordinary.
"""

import heapq
from collections.abc import Collection, Iterable

from tierflow.graph import Graph
from tierflow.profile import Profile, check_covers
from tierflow.segment import Segment
from tierflow.units import Seconds


def segment_seconds(graph: Graph, profile: Profile, segment: Segment) -> Seconds:
    """Time of one run of `segment` on the profile's machine, transfers not counted; 0 where it has no layers.

    Raises:
        InvalidInputError: where the profile belongs to another model.
    """
    check_covers(graph, profile)
    if not segment.layers:
        return Seconds(0.0)
    fused = sum(profile.layers[graph.layers[place].name] for place in segment.layers)
    torn, made_ordinary = _tear(graph, profile, segment.accepts, segment.layers)
    sent = {*segment.sends, *segment.results} - set(segment.accepts)
    leaving = sum(profile.leaves.get(name, 0.0) for name in sorted(sent - made_ordinary))
    return Seconds(profile.segment + fused + torn + leaving)


def crossings_of(graph: Graph, profile: Profile) -> dict[str, float]:
    """What `Profile.crossings` is by `torn`, `enters` and `leaves`: each native tensor cut alone, in seconds."""
    everything = range(len(graph.layers))
    return {
        name: seconds + _tear(graph, profile, [name], everything)[0]
        for name, seconds in profile.leaves.items()
        if graph.consumers.get(name)
    }


def _tear(
    graph: Graph, profile: Profile, arriving: Iterable[str], layers: Collection[int]
) -> tuple[float, frozenset[str]]:
    """What `layers` take longer because the tensors `arriving` are ordinary; and all tensors then made ordinary."""
    native = profile.leaves
    own = layers if isinstance(layers, range) else frozenset(layers)
    ordinary = {name for name in arriving if name in native}
    paid = set(ordinary)  # an ordinary copy is made once, however many read it
    entered: set[str] = set()
    extra = 0.0
    waiting = sorted({place for name in ordinary for place in graph.consumers.get(name, ()) if place in own})
    done: set[int] = set()
    while waiting:
        place = heapq.heappop(waiting)
        if place in done:
            continue
        done.add(place)
        layer = graph.layers[place]
        if layer.name not in profile.torn:
            entering = [name for name in layer.inputs if name in ordinary and name not in entered]
            entered.update(entering)
            extra += sum(profile.enters.get(name, 0.0) for name in entering)
            continue
        leaving = [name for name in layer.inputs if name in native and name not in paid]
        paid.update(leaving)
        extra += profile.torn[layer.name] - profile.layers[layer.name] + sum(native[name] for name in leaving)
        for output in layer.outputs:
            if output in native:
                ordinary.add(output)
                paid.add(output)
                for user in graph.consumers.get(output, ()):
                    if user in own:
                        heapq.heappush(waiting, user)
    return extra, frozenset(paid)
