"""Which cuts are checked, and checking them one after the other."""

from collections.abc import Sequence
from dataclasses import dataclass

from tierflow.errors import InvalidInputError
from tierflow.graph import Graph
from tierflow.model.model import Model
from tierflow.segment import Route, cut
from tierflow.tiers import Tier
from tierflow_cli.console import progress
from tierflow_cli.planned import Wishes, planned
from tierflow_cli.target import Target
from tierflow_worker.verification import CutCheck, random_cuts, sample_inputs, verify_partition, whole_outputs


@dataclass(frozen=True, slots=True)
class Cut:
    """A partition to check: the tier of each layer, and the route."""

    tiers: tuple[Tier, ...]
    route: Route = Route.RELAYED


def cuts_of(
    target: Target,
    wishes: Wishes,
    *,
    texts: Sequence[str] = (),
    names: tuple[str, str] | None = None,
    random: int = 0,
    seed: int = 0,
) -> tuple[Cut, ...]:
    """What is to be checked: the cuts that are asked for, else the plan's.

    Args:
        target: The model, or the manifest with it.
        wishes: What decides the plan.
        texts: Cuts as `LAST_DEVICE_LAYER,LAST_EDGE_LAYER`.
        names: Last layers of device and edge.
        random: So many random ones.
        seed: Chooses the random ones.

    Raises:
        InvalidInputError: where a text is no cut, or a name is no layer's.
    """
    graph = target.model.graph
    asked = [parse_cut(text, graph) for text in texts]
    asked += [names] if names is not None else []
    asked += random_cuts(graph, random, seed) if random else []
    if asked:
        return tuple(Cut(cut(graph, device, edge)) for device, edge in asked)
    plan = planned(target, wishes).plan
    return (Cut(plan.tiers(graph), plan.route),)


def parse_cut(text: str, graph: Graph) -> tuple[str, str]:
    """Reads `LAST_DEVICE_LAYER,LAST_EDGE_LAYER`, either of which may be empty.

    Raises:
        InvalidInputError: where there is no comma, or several and it isn't clear which one separates the names.
    """
    found = names_around_comma(text, graph)
    if found is None:
        raise InvalidInputError(
            f"--cut: {text!r} {_why_none(text, 'cut')}; write LAST_DEVICE_LAYER,LAST_EDGE_LAYER, like conv1,conv3, or "
            "use --device-layer and --edge-layer",
            subject="--cut",
        )
    return found


def parse_run(text: str, graph: Graph) -> tuple[str, str]:
    """Reads `FIRST_LAYER,LAST_LAYER`.

    Raises:
        InvalidInputError: where there is no comma, or several and it isn't clear which one separates the names.
    """
    found = names_around_comma(text, graph)
    if found is None or not all(found):
        reason = _why_none(text, "run") if found is None else "leaves a layer out"
        raise InvalidInputError(
            f"--run: {text!r} {reason}; write FIRST_LAYER,LAST_LAYER, like conv1,pool3", subject="--run"
        )
    return found


def names_around_comma(text: str, graph: Graph) -> tuple[str, str] | None:
    """Two names of layers with a comma between them, either of which may be empty.

    Where there are several commas, it is the one around which both are names of the graph; None where there is none.
    """
    commas = [place for place, letter in enumerate(text) if letter == ","]
    found = [(text[:place], text[place + 1 :]) for place in commas]
    if len(found) > 1:
        found = [pair for pair in found if all(name in graph.place or not name for name in pair)]
    return found[0] if len(found) == 1 else None


def _why_none(text: str, noun: str) -> str:
    return "may be split at more than one comma, or at none" if "," in text else f"is no {noun}"


def check(model: Model, cuts: Sequence[Cut], *, seed: int = 0, threads: int = 1) -> tuple[CutCheck, ...]:
    """Checks each cut against the whole model's answer, with progress on a terminal.

    Raises:
        TierflowError: see `tierflow_worker.verification`.
    """
    inputs = sample_inputs(model, seed)
    with progress("running the whole model") as tell:
        expected = whole_outputs(model, inputs, threads=threads)
        checks = []
        for number, asked in enumerate(cuts):
            tell(f"checking cut {number + 1} of {len(cuts)}", number / len(cuts))
            checks.append(verify_partition(model, asked.tiers, inputs, expected, route=asked.route, threads=threads))
    return tuple(checks)
